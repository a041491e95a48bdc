"""Wan in less memory, for sampling: weights in float8, or on the host until they are used."""

from typing import Literal

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from pydantic import BaseModel, ConfigDict, Field


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
        compute = wan.proj_out.weight.dtype
        for name, parameter in wan.named_parameters():
            if ".lora_" in name:  # whose input diffusers no longer casts for it
                parameter.data = parameter.data.to(compute)
        wan.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)
    if settings.offload == "group":
        # leaf by leaf: exo keys and values are computed outside of their blocks
        wan.enable_group_offload(onload_device=torch.device(device), offload_type="leaf_level")
