"""A run's LoRA as one small safetensors file, in the keys of a reader; the rest beside it."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from exo2ego.training.checkpoint import WEIGHTS
from exo2ego.training.export.trained import Lora, Trained
from exo2ego.training.export.written import (
    OTHER,
    ExportFault,
    Wish,
    about,
    in_dtype,
    refuse_overwriting,
    write_tensors,
)

SUFFIX = ".safetensors"


def write_lora(
    trained: Trained,
    wish: Wish,
    name: str,
    tensors_of: Callable[[str, Lora], dict[str, Tensor]],
    **header: str,
) -> list[Path]:
    """Writes the LoRA, and beside it what it does not hold; returns both files.

    The LoRA's file is `wish.out` if that ends in .safetensors, else `name` in that folder.
    `tensors_of` names the tensors of one module. Raises ExportFault without LoRA, or over files.
    """
    files = _files(trained, wish.out, name)
    said = about(trained, wish.wan_spec)
    lora: dict[str, Tensor] = {}
    for module, pair in trained.lora.items():
        typed = Lora(in_dtype(pair.down, wish.dtype), in_dtype(pair.up, wish.dtype), pair.alpha)
        lora |= tensors_of(module, typed)
    write_tensors(files[0], lora, said, **header)
    other = {name: in_dtype(value, wish.dtype) for name, value in trained.other.items()}
    write_tensors(files[1], other, said)
    return files


def _files(trained: Trained, out: Path, name: str) -> list[Path]:
    if not trained.lora:
        raise ExportFault(
            "This run has no LoRA.",
            where=trained.checkpoint,
            expected="a run that trained a LoRA on Wan",
            got=f"one of stage {trained.state.stage} without",
            fix=f"Use --format merged if it trained Wan; {WEIGHTS} is plain safetensors, too.",
        )
    alone = out.suffix == SUFFIX
    files = [out, out.with_suffix(f".{OTHER}")] if alone else [out / name, out / OTHER]
    for path in files:
        refuse_overwriting(path)
    return files
