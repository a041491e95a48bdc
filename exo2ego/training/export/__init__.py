"""What a run trained, in the forms that other programs read: the registry of these forms."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from exo2ego.training.export.comfyui_keys import write_comfyui
from exo2ego.training.export.merged import write_merged
from exo2ego.training.export.peft_keys import write_peft
from exo2ego.training.export.trained import Trained, read_trained
from exo2ego.training.export.written import Wish

FORMATS: dict[str, Callable[[Trained, Wish], list[Path]]] = {
    "peft": write_peft,
    "comfyui": write_comfyui,
    "merged": write_merged,
}
"""Writes the files of an export, and returns them."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ExportReport:
    """What a call of `export` wrote."""

    checkpoint: Path
    step: int
    files: list[Path]
    """Files and, merged, the transformer's folder."""
    bytes: int
    lora_modules: int
    other_tensors: int
    """Trained tensors that are no LoRA."""


def export(
    run: Path,
    out: Path,
    *,
    form: str,
    dtype: str | None = None,
    wan_spec: str | None = None,
    ema: bool = False,
) -> ExportReport:
    """Writes what a run and its parents trained into `out`, in one of FORMATS.

    `out` is a folder or, for a LoRA, a file ending in .safetensors; nothing is overwritten. `dtype`
    is a key of DTYPES; None means as trained, and for merged what Wan's frozen weights had. `ema`
    takes the run's averaged weights.
    Raises ExportFault for a run that has no such thing, CheckpointFault for an altered one.
    """
    trained = read_trained(run, ema=ema)
    wish = Wish(out, DTYPES[dtype] if dtype else None, wan_spec)
    files = FORMATS[form](trained, wish)
    every = [path for file in files for path in ([file] if file.is_file() else file.iterdir())]
    return ExportReport(
        checkpoint=trained.checkpoint,
        step=trained.state.step,
        files=files,
        bytes=sum(path.stat().st_size for path in every),
        lora_modules=len(trained.lora),
        other_tensors=len(trained.other),
    )
