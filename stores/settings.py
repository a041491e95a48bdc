"""store.json: the format and the recipe of a store, written once and compared ever after."""

from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from stores.atomic import write_whole
from stores.errors import StoreFault
from stores.place import Place
from stores.version import STORE_FORMAT, StoreRecipe, check_format

NAME = "store.json"
ZARR, WEBDATASET = "zarr", "webdataset"
"""Containers of a store: Zarr v3 shards that grow, and tar shards of one version."""


@dataclass(frozen=True)
class StoreSettings:
    """What holds for all versions of a store."""

    recipe: StoreRecipe
    clips_per_shard: int
    container: str = ZARR


def write_settings(store: Place, settings: StoreSettings) -> None:
    """Writes store.json."""
    about = {
        "format": STORE_FORMAT,
        "container": settings.container,
        "clips_per_shard": settings.clips_per_shard,
        "recipe_digest": settings.recipe.digest,
        "recipe": settings.recipe.model_dump(mode="json"),
    }
    write_whole(store / NAME, orjson.dumps(about, option=orjson.OPT_INDENT_2))


def read_settings(store: Place) -> StoreSettings:
    """What store.json says. Raises StoreFault if it is missing, newer than we are or altered."""
    path = store / NAME
    try:
        plain = orjson.loads(path.read_bytes())
        check_format(path, plain["format"])
        recipe = StoreRecipe.model_validate(plain["recipe"])
        if recipe.digest != plain["recipe_digest"]:
            raise _fault(path, f"recipe {plain['recipe_digest'][:12]}", recipe.digest[:12])
        container = plain.get("container", ZARR)
        if container not in (ZARR, WEBDATASET):
            raise _fault(path, f"container {ZARR} or {WEBDATASET}", repr(container))
        size = plain["clips_per_shard"]
        if not isinstance(size, int) or size < 1:
            raise _fault(path, "clips_per_shard from 1", repr(size))
        return StoreSettings(recipe, size, container)
    except FileNotFoundError as missing:
        raise _fault(path, "a store", "no store.json") from missing
    except (orjson.JSONDecodeError, KeyError, TypeError, ValidationError) as foreign:
        raise _fault(path, "settings of a store", str(foreign)) from foreign


def check_same_recipe(store: Place, old: StoreRecipe, new: StoreRecipe) -> None:
    """Raises StoreFault, naming every field that differs, unless the recipes are equal."""
    if old == new:
        return
    differing = differing_fields(old, new)
    raise StoreFault(
        "This store was made by another recipe; one store holds one.",
        where=store / NAME,
        expected=", ".join(f"{key} = {before}" for key, (before, _) in differing.items()),
        got=", ".join(f"{key} = {after}" for key, (_, after) in differing.items()),
        fix="Start a new store from this one with `exo2ego store fork`, or go back to its recipe.",
    )


def differing_fields(old: StoreRecipe, new: StoreRecipe) -> dict[str, tuple[Any, Any]]:
    """Both values of every field of the recipes that differs, by dotted name: clips.stride."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _fault(path: Place, expected: str, got: str) -> StoreFault:
    return StoreFault(
        "The settings of the store cannot be read.",
        where=path,
        expected=expected,
        got=got,
        fix="Check the path; make a store with `exo2ego encode-latents clips.parquet --store S`.",
    )
