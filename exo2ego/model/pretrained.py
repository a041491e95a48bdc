"""Where a published model's parts lie: one component of a diffusers folder or hub repository."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from diffusers.configuration_utils import ConfigMixin

from stores.errors import UserFault

CONFIG_FILE = "config.json"
TINY = "tiny"
"""The spec of the small random model of the same class, for tests and dry runs."""


class WeightsFault(UserFault, OSError):
    """Model weights that are missing, of another model, or of another shape."""


@dataclass(frozen=True)
class Component:
    """One part of a model that `from_pretrained` can load, and its configuration."""

    source: str
    """A local folder or a hub id."""
    subfolder: str | None
    """The part's folder inside the source; None if the source is the part itself."""
    config: dict[str, Any]

    @property
    def place(self) -> str:
        """The part's address, as a user would write it."""
        return self.source if self.subfolder is None else f"{self.source}/{self.subfolder}"


def locate(spec: str, subfolder: str, class_name: str) -> Component:
    """The component `subfolder` of a model, or `spec` itself if it is that component.

    `spec` is a local folder, else a hub id ("owner/name"). Only the configuration is read.
    Raises WeightsFault if nothing is there or it is of another class than `class_name`.
    """
    folder = Path(spec).expanduser()
    found = _on_disk(folder, subfolder) if folder.exists() else _on_hub(spec, subfolder)
    got = found.config.get("_class_name", "no _class_name")
    if got != class_name:
        raise WeightsFault(
            "These weights are of another model.",
            where=f"{found.place}/{CONFIG_FILE}",
            expected=f'"_class_name": "{class_name}"',
            got=got,
            fix="Give the diffusers folder or hub id of Wan2.2-I2V-A14B, or of that part alone.",
        )
    return found


def _on_disk(folder: Path, subfolder: str) -> Component:
    """The component in a local folder."""
    for inner in (None, subfolder):
        path = folder / CONFIG_FILE if inner is None else folder / inner / CONFIG_FILE
        if path.is_file():
            return Component(str(folder), inner, json.loads(path.read_text(encoding="utf-8")))
    raise WeightsFault(
        "This folder does not hold the model's part.",
        where=folder,
        expected=f"{CONFIG_FILE}, or {subfolder}/{CONFIG_FILE}, in diffusers' layout",
        got="neither file",
        fix="Give the diffusers folder of Wan2.2-I2V-A14B, with its subfolders complete.",
    )


def _on_hub(spec: str, subfolder: str) -> Component:
    """The component in a hub repository; its configuration comes from the hub or its cache."""
    fault = WeightsFault(
        "These weights are neither a folder here nor a model on the hub.",
        where=spec,
        expected="an existing folder, a reachable or cached hub id (owner/name), or 'tiny'",
        got="nothing found",
        fix="Check the spelling, the network and, for a gated model, `hf auth login`.",
    )
    if spec.count("/") != 1 or spec.startswith(("/", ".", "~")):
        raise fault
    try:
        config = _Reader.load_config(spec, subfolder=subfolder)
    except OSError as cause:
        raise fault from cause
    return Component(spec, subfolder, cast(dict[str, Any], config))


class _Reader(ConfigMixin):
    """A class that diffusers can read any component's configuration for."""

    config_name = CONFIG_FILE
