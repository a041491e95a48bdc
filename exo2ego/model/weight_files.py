"""Weights in a folder of safetensors files: found, checked, put into a model one by one.

Beside the model, one tensor is in memory. Files in pickle form are never opened.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from exo2ego.model.pretrained import (
    FETCH_AGAIN,
    WEIGHT_FILES,
    WeightsFault,
    read_json,
    unreadable,
)

INDEX_FILE = "diffusion_pytorch_model.safetensors.index.json"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_TYPES = {"F32", "BF16", "F16"}


@dataclass(frozen=True)
class Stored:
    """Where one tensor is."""

    file: Path
    name: str
    """As the file calls it."""


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder, by its name. Raises WeightsFault if a file is not there."""
    index = folder / INDEX_FILE
    names = _by_index(index) if index.is_file() else _by_headers(folder)
    absent = sorted({path.name for path in names.values() if not path.is_file()})
    if absent:
        raise unreadable(folder, "all files that its index names", f"no {', '.join(absent)}")
    if not names:
        raise _nothing_in(folder)
    return {name: Stored(path, name) for name, path in names.items()}


def shape_of(stored: Stored) -> tuple[int, ...]:
    """A tensor's shape, by its file's header."""
    with _opened(stored.file) as file:
        return tuple(file.get_slice(stored.name).get_shape())


def fill(
    model: nn.Module,
    stored: Mapping[str, Stored],
    device: str | torch.device,
    dtype_of: Callable[[str], torch.dtype],
    where: Path,
) -> None:
    """Puts tensors into a model on meta, by the model's names, in the types wanted.

    Raises WeightsFault if one is missing, too many, of another shape, no float of at least 16
    bits, or not finite; all headers are read before the first tensor.
    """
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    _check_names(stored, shapes, where)
    files: dict[Path, dict[str, str]] = {}
    for name, place in stored.items():
        files.setdefault(place.file, {})[name] = place.name
    for path, names in files.items():
        with _opened(path) as file:
            for name, there in names.items():
                _check_header(file.get_slice(there), shapes[name], f"{path}, {there}")
    for path, names in files.items():
        with _opened(path) as file:
            for name, there in names.items():
                own = dtype_of(name)
                # a copy: a tensor that is not converted would hold all of its file
                placed = file.get_tensor(there).to(device, own, copy=True)
                _check_finite(placed, f"{path}, {there}")
                set_module_tensor_to_device(model, name, device, value=placed, dtype=own)
    for name, buffer in model.named_buffers():
        set_module_tensor_to_device(model, name, device, value=buffer)


def _by_index(index: Path) -> dict[str, Path]:
    """The file of each tensor, as an index has it."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict):
        raise unreadable(f"{index}, weight_map", "files by the names of tensors", named)
    for name, file in named.items():
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or not file.endswith(".safetensors")
        ):
            raise unreadable(f"{index}, {name}", "a safetensors file in the same folder", file)
    return {name: index.parent / file for name, file in named.items()}


def _by_headers(folder: Path) -> dict[str, Path]:
    """The file of each tensor in a folder without an index."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(WEIGHT_FILES)):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if name in found:
                    raise unreadable(
                        folder, f"{name} in one file", f"{found[name].name} and {path.name}"
                    )
                found[name] = path
    return found


def _nothing_in(folder: Path) -> WeightsFault:
    """The fault of a folder without safetensors; files in pickle form are named."""
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    return WeightsFault(
        "There are no weights that can be read safely.",
        where=folder,
        expected=f"files {WEIGHT_FILES}",
        got=f"{', '.join(pickles)}: opening such a file may run code" if pickles else "none",
        fix="Fetch the model's safetensors files into this folder.",
    )


def _check_names(stored: Mapping[str, Stored], shapes: Mapping[str, Any], where: Path) -> None:
    missing = [name for name in shapes if name not in stored]
    unknown = [place.name for name, place in stored.items() if name not in shapes]
    if missing or unknown:
        got = [f"without {_some(missing)}"] if missing else []
        got += [f"with {_some(unknown)}"] if unknown else []
        raise unreadable(where, f"exactly the model's {len(shapes)} tensors", ", ".join(got))


def _some(names: list[str]) -> str:
    """The first of some names, and how many they are."""
    return f"{', '.join(names[:3])} ({len(names)} in all)"


def _check_header(header: Any, shape: tuple[int, ...], where: str) -> None:
    """Raises WeightsFault for another shape, or a type that holds no plain weights."""
    got = tuple(header.get_shape())
    if got != shape:
        raise unreadable(where, f"shape {shape}", f"shape {got}")
    if (dtype := header.get_dtype()) not in _TYPES:
        raise unreadable(where, f"numbers of type {' or '.join(sorted(_TYPES))}", dtype)


def _check_finite(value: Tensor, where: str) -> None:
    """Raises WeightsFault if there is a NaN or an infinity.

    By the extremes, which a NaN takes over: 0.05 to 0.15 s a GB of the files (one GB, two busy
    cores), where loading took 0.3 to 0.45 s.
    """
    if value.numel() == 0 or all(bool(extreme.isfinite()) for extreme in value.aminmax()):
        return
    raise WeightsFault(
        "These weights are not all numbers.",
        where=where,
        expected="finite values alone",
        got=f"{int((~value.isfinite()).sum())} of {value.numel()} are NaN or infinite",
        fix=FETCH_AGAIN,
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file. Raises WeightsFault if it is not a whole one."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except WeightsFault:
        raise
    except (OSError, SafetensorError) as damaged:
        raise unreadable(path, "a whole safetensors file", damaged) from damaged
