"""Wan in less memory: weights in float8, or on the host until used; activations made again."""

from typing import Literal

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from pydantic import BaseModel, ConfigDict, Field, model_validator

from exo2ego.model.wan import wan_dtype
from stores.errors import UserFault


class MemoryFault(UserFault, ValueError):
    """A way to spare memory that does not go with what trains."""


class TrainingMemory(BaseModel):
    """What of Wan is kept while it trains."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpointing: bool = Field(
        default=False, description="make each block's activations again on the way back"
    )
    base: Literal["full", "fp8"] = Field(
        default="full",
        description="fp8: the blocks' frozen matrices as float8 e4m3, where LoRA alone trains in "
        "them; only with checkpointing, as backward would keep them in bf16 otherwise",
    )
    activations: Literal["device", "host"] = Field(
        default="device",
        description="host: what backward needs waits in the host's memory (torch's save_on_cpu)",
    )

    @model_validator(mode="after")
    def _spares_something(self) -> "TrainingMemory":
        if self.base == "fp8" and not self.checkpointing:
            raise ValueError("base fp8 needs checkpointing = true: it spares nothing without")
        return self


class MemorySettings(BaseModel):
    """How Wan's weights are kept between their uses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Literal["full", "fp8"] = Field(
        default="full",
        description="fp8: the blocks' matrices as float8 e4m3, half of bf16's bytes, put into the "
        "precision of the arithmetic layer by layer; LoRA in that precision; norms and embeddings "
        "stay as they are",
    )
    offload: Literal["none", "group"] = Field(
        default="none",
        description="group: weights lie on the host, each layer's on the GPU while it runs",
    )


def spare_memory(
    wan: WanTransformer3DModel, settings: MemorySettings, device: str | torch.device
) -> None:
    """Changes Wan in place, by diffusers' own hooks. It is for sampling: nothing may train.

    float8 rounds weights: outputs differ (docs/systems.md has the measure). Offloading does not
    change a bit.
    """
    if settings.base == "fp8":
        for name, parameter in wan.named_parameters():
            if ".lora_" in name:  # whose input diffusers no longer casts for it
                parameter.data = parameter.data.to(wan_dtype(wan))
        _store_in_float8(wan)
    if settings.offload == "group":
        # leaf by leaf: exo keys and values are computed outside of their blocks
        wan.enable_group_offload(onload_device=torch.device(device), offload_type="leaf_level")


def spare_training_memory(wan: WanTransformer3DModel, settings: TrainingMemory) -> None:
    """Changes Wan in place, once it is known what trains.

    Raises MemoryFault for float8 where more of a block than LoRA trains, as in MultiExoCon.
    """
    if settings.checkpointing:
        wan.enable_gradient_checkpointing()
    if settings.base != "fp8":
        return
    trains = [
        name
        for name, parameter in wan.blocks.named_parameters()
        if parameter.requires_grad and ".lora_" not in name
    ]
    if trains:
        raise MemoryFault(
            "Weights that train cannot be kept in float8.",
            where="memory.base",
            expected="blocks of which LoRA alone trains, as in stage poseinj",
            got=f"{len(trains)} others, first {trains[0]}",
            fix="Use memory.base=full; memory.checkpointing=true spares activations all the same.",
        )
    _store_in_float8(wan)


def _store_in_float8(wan: WanTransformer3DModel) -> None:
    wan.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=wan_dtype(wan))
