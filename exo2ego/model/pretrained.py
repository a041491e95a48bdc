"""Where a published model's parts lie: one component of a diffusers folder or hub repository."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from pydantic import BaseModel, ValidationError

from stores.errors import UserFault

CONFIG_FILE = "config.json"
WEIGHT_FILES = "*.safetensors"
TINY = "tiny"
"""The spec of the small random model of the same class, for tests and dry runs."""
MINI = "mini"
"""The spec of our own small trained weights, which come with the package (docs/mini.md)."""
_MINI_FOLDER = Path(__file__).parents[1] / "weights" / MINI
FETCH_AGAIN = "Fetch it again; if it lies in the hub's cache, delete it there first."
_Shape = TypeVar("_Shape", bound=BaseModel)


class WeightsFault(UserFault, OSError):
    """Model weights that are missing, damaged, of another model, or of another shape."""


@dataclass(frozen=True)
class Component:
    """One part of a model, and its configuration."""

    folder: Path
    """Where its files lie on this machine, those of the weights once they were fetched."""
    config: dict[str, Any]
    inner: str | None
    """The part's folder inside the model; None if the part itself was given."""
    hub_id: str | None = None
    """The repository that it comes from; None for a folder that was given."""

    def fetch_weights(self) -> None:
        """Downloads this part's weights and no others, from the commit of its configuration."""
        if self.hub_id is not None and self.inner is not None:
            commit = self.folder.parent.name
            _snapshot(self.hub_id, [f"{self.inner}/{WEIGHT_FILES}"], commit)


def given_path(spec: str) -> Path:
    """The folder that a spec may mean: for "mini" and "mini/align" that of the shipped weights.

    A folder of one's own that is called mini/align comes first.
    """
    path = Path(spec).expanduser()
    shipped = _MINI_FOLDER.joinpath(*path.parts[1:])
    ours = spec == MINI or (path.parts[:1] == (MINI,) and not path.exists() and shipped.is_dir())
    return shipped if ours else path


def locate(spec: str, classes: Mapping[str, str]) -> Component:
    """The part of a model that is in the first of some folders, or `spec` itself if it is one.

    `classes` has the class by the folder's name. `spec` is "mini", a local folder, else a hub id
    ("owner/name"). Only configurations are read. Raises WeightsFault if nothing is there, or
    something damaged or of another class.
    """
    given = given_path(spec)
    hub_id = None if given.exists() else spec
    source = given if hub_id is None else _snapshot(spec, [f"{inner}/*.json" for inner in classes])
    for inner in (*classes, None):
        folder = source if inner is None else source / inner
        if (folder / CONFIG_FILE).is_file():
            expected = list(classes.values()) if inner is None else [classes[inner]]
            config = _config_of(folder / CONFIG_FILE, expected)
            return Component(folder, config, inner, hub_id)
    raise WeightsFault(
        "This folder does not hold the model's part.",
        where=spec,
        expected=" or ".join(f"{inner}/{CONFIG_FILE}" for inner in classes) + f", or {CONFIG_FILE}",
        got=f"only {', '.join(sorted(path.name for path in source.iterdir())[:8]) or 'nothing'}"
        if source.is_dir()
        else "a file",
        fix="Give the diffusers folder of Wan2.2-I2V-A14B, with its subfolders complete.",
    )


def _config_of(path: Path, classes: list[str]) -> dict[str, Any]:
    """A configuration. Raises WeightsFault if it is damaged, or of none of the classes."""
    config = read_json(path)
    if (got := config.get("_class_name", "no _class_name")) not in classes:
        raise WeightsFault(
            "These weights are of another model.",
            where=path,
            expected=f'"_class_name": "{" or ".join(classes)}"',
            got=got,
            fix="Give the diffusers folder or hub id of Wan2.2-I2V-A14B, or of that part alone.",
        )
    return config


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file. Raises WeightsFault if it is not one."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as damaged:
        raise unreadable(path, "JSON", damaged) from damaged
    if not isinstance(read, dict):
        raise unreadable(path, "a JSON object", type(read).__name__)
    return read


def checked_shape(shape: type[_Shape], values: Mapping[str, object], where: object) -> _Shape:
    """A configuration's values, checked. Raises WeightsFault with the first one that is wrong."""
    try:
        return shape.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise unreadable(f"{where}, {key}", first["msg"], repr(first["input"])) from wrong


def unreadable(where: object, expected: object, got: object) -> WeightsFault:
    """The fault of a file that is damaged or not whole; of an exception, its first line."""
    return WeightsFault(
        "These weights cannot be read.",
        where=where,
        expected=expected,
        got=str(got).partition("\n")[0],
        fix=FETCH_AGAIN,
    )


def _snapshot(hub_id: str, patterns: list[str], commit: str | None = None) -> Path:
    """A repository's folder in the hub's cache, with the files of these patterns."""
    fault = WeightsFault(
        "These weights are neither a folder here nor a model on the hub.",
        where=hub_id,
        expected="an existing folder, a reachable or cached hub id (owner/name), 'mini' or 'tiny'",
        got="nothing found",
        fix="Check the spelling, the network and, for a gated model, `hf auth login`.",
    )
    if hub_id.count("/") != 1 or hub_id.startswith(("/", ".", "~")):
        raise fault
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, revision=commit))
    except (OSError, HFValidationError) as cause:
        raise fault from cause
