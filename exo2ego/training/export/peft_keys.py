"""LoRA in diffusers' keys, which are peft's with the pipeline's name of the transformer before."""

from pathlib import Path
from typing import Any

import orjson
from peft import LoraConfig
from torch import Tensor

from exo2ego.training.export.lora_file import write_lora
from exo2ego.training.export.trained import Lora, Trained
from exo2ego.training.export.written import Wish

NAME = "pytorch_lora_weights.safetensors"
"""What diffusers looks for in a folder."""
PREFIX = "transformer"
"""Also for the low-noise expert: `load_into_transformer_2` says where a file goes."""


def write_peft(trained: Trained, wish: Wish) -> list[Path]:
    """Writes the LoRA as diffusers' `load_lora_adapter` and `load_lora_weights` read it."""
    config = orjson.dumps(_config(trained)).decode()
    return write_lora(trained, wish, NAME, _tensors, lora_adapter_metadata=config)


def _tensors(module: str, lora: Lora) -> dict[str, Tensor]:
    return {
        f"{PREFIX}.{module}.lora_A.weight": lora.down,
        f"{PREFIX}.{module}.lora_B.weight": lora.up,
    }


def _config(trained: Trained) -> dict[str, Any]:
    """peft's configuration, alpha included, under the key and prefix that diffusers reads."""
    shapes = {(lora.down.shape[0], int(lora.alpha)) for lora in trained.lora.values()}
    rank, alpha = next(iter(shapes), (1, 1))  # without LoRA nothing is written
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(trained.lora))
    plain = {key: list(of) if isinstance(of, set) else of for key, of in config.to_dict().items()}
    return {f"{PREFIX}.{key}": value for key, value in plain.items()}
