"""What every form of an export has in common: its files, their metadata, what a caller asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from huggingface_hub import ModelCard, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from exo2ego.model.wan_expert import LOW_NOISE
from exo2ego.training.checkpoint import CheckpointState, software_versions
from exo2ego.training.export.trained import Trained
from stores.atomic import PARTIAL, disk_faults, sync_folder
from stores.errors import UserFault

OTHER = "exo2ego.safetensors"
"""What no LoRA format holds: cross-attention, exo tokens, PoseInj, by their names in the model."""
ABOUT = "exo2ego"
"""Key of our metadata in a safetensors header; its value is JSON."""
_CARD = "README.md"


class ExportFault(UserFault, ValueError):
    """A run that cannot be exported as asked, or files that would be overwritten."""


@dataclass(frozen=True)
class Wish:
    """What a caller asks for."""

    out: Path
    dtype: torch.dtype | None
    """Of the written weights; None means as they are."""
    wan_spec: str | None
    """The pretrained transformer; None means what the run was given."""


def about(trained: Trained, wan_spec: str | None) -> dict[str, Any]:
    """What an export says of itself: all states from the oldest on, Wan's licence, software.

    Paths of the machine that trained are left out, but for the last name of Wan's folder.
    """
    spec = wan_spec or (trained.state.wan.spec if trained.state.wan else None)
    return {
        "states": [_without_paths(state) for state in trained.states],
        "base_license": base_license(spec) if spec else None,
        "exported_by": software_versions(),
    }


def base_license(spec: str) -> str | None:
    """The licence that a model's card names, in its folder or the hub's cache; None if unknown."""
    folder = Path(spec).expanduser()
    if folder.exists():
        card = (folder.parent if folder.name == LOW_NOISE else folder) / _CARD
        card = card if card.is_file() else None
    else:
        cached = try_to_load_from_cache(spec, _CARD) if spec.count("/") == 1 else None
        card = Path(cached) if isinstance(cached, str) else None
    if card is None:
        return None
    found = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict().get("license")
    return str(found) if found else None


def write_tensors(
    path: Path, tensors: dict[str, Tensor], said: dict[str, Any], **header: str
) -> None:
    """Writes a safetensors file, whole or not at all, with `said` as JSON in its header."""
    refuse_overwriting(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    metadata = {"format": "pt", ABOUT: orjson.dumps(said).decode(), **header}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with writing_faults(path):
        try:
            save_file(plain, partial, metadata=metadata)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)


@contextmanager
def writing_faults(path: Path) -> Iterator[None]:
    """Turns what the disk refuses, by safetensors' own error too, into a StoreFault."""
    with disk_faults(path):
        try:
            yield
        except SafetensorError as cause:
            raise OSError(str(cause)) from cause


def refuse_overwriting(path: Path) -> None:
    """Raises ExportFault if there is something of that name."""
    if path.exists():
        raise ExportFault(
            "There is a file of this name already.",
            where=path,
            expected="a new file, or a folder without one",
            got=f"{path.stat().st_size:,} bytes",
            fix="Name another --out, or remove it.",
        )


def in_dtype(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The tensor in that type; as it is for None."""
    return tensor if dtype is None else tensor.to(dtype)


def _without_paths(state: CheckpointState) -> dict[str, Any]:
    plain = state.model_dump(mode="json", exclude={"stream"}) | {"stream": {}}
    if plain["wan"] and Path(plain["wan"]["spec"]).expanduser().is_absolute():
        plain["wan"]["spec"] = Path(plain["wan"]["spec"]).name
    return plain
