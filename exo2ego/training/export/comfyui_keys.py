"""LoRA in ComfyUI's keys: the original repository's names, down and up, and an alpha each."""

from pathlib import Path

import torch
from torch import Tensor

from exo2ego.model.wan_names import original_name
from exo2ego.training.export.lora_file import write_lora
from exo2ego.training.export.trained import Lora, Trained
from exo2ego.training.export.written import ExportFault, Wish

NAME = "exo2ego-comfyui-lora.safetensors"
PREFIX = "diffusion_model"


def write_comfyui(trained: Trained, wish: Wish) -> list[Path]:
    """Writes the LoRA as ComfyUI's loader reads it."""
    return write_lora(trained, wish, NAME, _tensors)


def _tensors(module: str, lora: Lora) -> dict[str, Tensor]:
    if (name := original_name(module)) is None:
        raise ExportFault(
            "ComfyUI has no name for a part of Wan that this LoRA changes.",
            where=module,
            expected="a part that the original repository names",
            got="one of diffusers' alone",
            fix="Export with --format peft or --format merged.",
        )
    start = f"{PREFIX}.{name}"
    return {
        f"{start}.lora_down.weight": lora.down,
        f"{start}.lora_up.weight": lora.up,
        f"{start}.alpha": torch.tensor(lora.alpha),
    }
