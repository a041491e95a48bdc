"""A new store with another recipe, which remembers the store that it was forked from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stores.atomic import disk_faults, write_whole
from stores.errors import StoreFault
from stores.lock import write_lock
from stores.place import Place
from stores.recipe import ClipRecipe
from stores.resolve import resolve
from stores.settings import differing_fields, read_settings
from stores.version import StoreRecipe, VaeRecipe, list_versions
from stores.zarr_store import create_store

NAME = "origin.json"
_CHANGEABLE: dict[str, type[BaseModel]] = {"clips": ClipRecipe, "vae": VaeRecipe}


class Origin(BaseModel):
    """Where a forked store comes from; kept beside store.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = Field(description="hash of the version that was forked")
    recipe_digest: str = Field(description="digest of its recipe")


@dataclass(frozen=True)
class ForkReport:
    """The new store, which is empty: `encode-latents` fills it from a clip list of its recipe."""

    path: str
    origin: str
    """Hash of the version that was forked."""
    recipe: Mapping[str, tuple[Any, Any]]
    """Old and new value of every field that differs, those that follow from others too."""


def fork(store: str | Place, new_path: Place, recipe_changes: Mapping[str, Any]) -> ForkReport:
    """Makes an empty store with the recipe of `store` but for these fields, by dotted name.

    Choice: a field that had its default value gets that of the new recipe: with `clips.stride`
    changes `clips.window_step`, if it was stride x frames. So the recipe is that of a clip list
    that `ingest` makes with the same options. Raises StoreFault for an unknown field or a value
    that will not do, if nothing would change, or if there is a store with clips already.
    """
    folder, origin = resolve(store)
    settings = read_settings(folder)
    recipe = _changed(folder, settings.recipe, recipe_changes)
    if list_versions(new_path):
        raise StoreFault(
            "There is a store with clips already.",
            where=new_path,
            expected="a new folder",
            got=f"{len(list_versions(new_path))} versions",
            fix="Give another path for the fork.",
        )
    with disk_faults(new_path), write_lock(new_path):
        create_store(new_path, recipe, clips_per_shard=settings.clips_per_shard)
        about = Origin(store=origin, recipe_digest=settings.recipe.digest)
        write_whole(new_path / NAME, about.model_dump_json(indent=2).encode())
    return ForkReport(str(new_path), origin, differing_fields(settings.recipe, recipe))


def read_origin(store: Place) -> Origin | None:
    """Where the store was forked from; None if it was not."""
    path = store / NAME
    if not path.exists():
        return None
    try:
        return Origin.model_validate(orjson.loads(path.read_bytes()))
    except (orjson.JSONDecodeError, ValidationError) as foreign:
        raise StoreFault(
            "The note of where this store was forked from cannot be read.",
            where=path,
            expected="hash and recipe digest of a store",
            got=str(foreign),
            fix="Restore the file from a copy, or remove it; no clip depends on it.",
        ) from foreign


def _changed(folder: Place, old: StoreRecipe, changes: Mapping[str, Any]) -> StoreRecipe:
    """The recipe with the changes. Raises StoreFault if it cannot be, or is the old one."""
    parts = {part: _without_defaults(getattr(old, part)) for part in _CHANGEABLE}
    known = [f"{part}.{name}" for part, model in _CHANGEABLE.items() for name in model.model_fields]
    for dotted, value in changes.items():
        if dotted not in known:
            raise _fault(folder, f"one of {', '.join(known)}", dotted)
        part, _, name = dotted.partition(".")
        parts[part][name] = value
    try:
        new = StoreRecipe.model_validate(old.model_dump(mode="json") | parts)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _fault(folder, first["msg"], f"{where} = {first['input']}") from wrong
    if new == old:
        raise _fault(folder, "a field that gets another value", changes or "no change")
    return new


def _without_defaults(part: BaseModel) -> dict[str, Any]:
    """The fields that were set: those that a recipe with only the others would have otherwise."""
    plain = part.model_dump(mode="json")
    for name, field in type(part).model_fields.items():
        if not field.is_required() and getattr(part, name) == field.get_default(
            call_default_factory=True, validated_data=part.model_dump()
        ):
            del plain[name]
    return plain


def _fault(folder: Place, expected: str, got: object) -> StoreFault:
    return StoreFault(
        "The store cannot be forked with these changes.",
        where=folder / "store.json",
        expected=expected,
        got=got,
        fix="`exo2ego store info` shows the recipe; change it with clips.stride=2 and the like.",
    )
