"""Wan2.2-I2V-A14B's low-noise transformer: loading it, and the LoRA on its self-attention."""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from jaxtyping import Float
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from torch import Tensor, nn

from exo2ego.model.pretrained import TINY, Component, WeightsFault, locate
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.wan_original import (
    load_original,
    original_config,
    original_folder,
    refuse_high_noise,
    stays_in_float32,
)
from stores.schema import LATENT_CHANNELS, PATCH_3D, VAE_FRAME_STRIDE

IN_CHANNELS = LATENT_CHANNELS + VAE_FRAME_STRIDE + LATENT_CHANNELS
"""Noisy latent, mask (one channel per source frame of a latent frame), condition latent."""
HIGH_NOISE, LOW_NOISE = "transformer", "transformer_2"
"""Folders of the two experts in diffusers' layout."""
ADAPTER = "default"
"""Name of our LoRA among peft's adapters: part of every checkpoint's names."""
_TINY: dict[str, Any] = {
    "patch_size": PATCH_3D,
    "num_attention_heads": 4,
    "attention_head_dim": 12,
    "in_channels": IN_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "text_dim": 32,
    "freq_dim": 20,
    "ffn_dim": 64,
    "num_layers": 2,
}
TRAINABLE_DTYPE = torch.float32
"""Of every weight that we add: small learning rates are lost in bfloat16."""


class LoraSettings(BaseModel):
    """Size of the LoRA on the q, k, v and output projections of every self-attention."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=128, gt=0, description="rank of each update (paper Table 10)")
    alpha: int = Field(
        default=128, gt=0, description="updates are scaled by alpha / rank (Table 10)"
    )


def load_wan(
    spec: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> WanTransformer3DModel:
    """The frozen low-noise expert of a folder (diffusers' or the authors' layout), a hub id, or
    "tiny"; without text. Weights go straight to the device, a file or a tensor at a time.

    Its text projection is replaced by the identity: what it attends to are exo tokens, already
    of the model's width (paper 3.4.1). Norms, the time embedder and the modulation tables stay
    in float32 whatever `dtype` is. Raises WeightsFault for any other Wan.
    """
    wan = load_with_text(spec, device=device, dtype=dtype)
    detach_text(wan)
    nn.Module.to(wan, device)
    return wan.requires_grad_(False).eval()


def load_with_text(
    spec: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> WanTransformer3DModel:
    """The same with its text projection: what diffusers saves and loads."""
    return _tiny_wan(dtype) if spec == TINY else _published_wan(spec, device, dtype)


def detach_text(wan: WanTransformer3DModel) -> nn.Module:
    """Puts the identity in the place of Wan's text projection, which is returned."""
    text = wan.condition_embedder.get_submodule("text_embedder")
    wan.condition_embedder.register_module("text_embedder", nn.Identity())
    return text


def blank_wan(spec: str | None, dtype: torch.dtype) -> WanTransformer3DModel:
    """A Wan on meta, shapes without numbers: the published 14B, or the one that `spec` names."""
    with torch.device("meta"):
        if spec is None:
            wan = WanTransformer3DModel(in_channels=IN_CHANNELS, out_channels=LATENT_CHANNELS)
        else:
            wan = WanTransformer3DModel(**_shape(spec))
    put_in_dtype(wan, dtype)
    detach_text(wan)
    return wan.requires_grad_(False)


def _shape(spec: str) -> dict[str, Any]:
    """The arguments that a Wan is made with. Raises WeightsFault as `load_wan` does."""
    if spec == TINY:
        return _TINY
    if (folder := original_folder(spec)) is not None:
        return original_config(folder)
    found = locate(spec, LOW_NOISE, WanTransformer3DModel.__name__)
    return {key: value for key, value in found.config.items() if key[0] != "_"}


def wan_width(wan: WanTransformer3DModel) -> int:
    """Width of a token."""
    return wan.config["num_attention_heads"] * wan.config["attention_head_dim"]


def wan_dtype(wan: WanTransformer3DModel) -> torch.dtype:
    """Type of its arithmetic: of what it is given, latents and tokens alike.

    Wan gives the tokens' type to its time embedding, too."""
    return wan.proj_out.weight.dtype


def wan_velocity(
    wan: WanTransformer3DModel,
    channels: Float[Tensor, "b k t h w"],
    timestep: Float[Tensor, "..."],
    tokens: Float[Tensor, "b n d"],
) -> Float[Tensor, "b c t h w"]:
    """Wan's output, in float32, for all its input channels and what it attends to."""
    dtype = wan_dtype(wan)
    (velocity,) = wan(channels.to(dtype), timestep, tokens.to(dtype), return_dict=False)
    return velocity.float()


def _published_wan(
    spec: str, device: str | torch.device, dtype: torch.dtype
) -> WanTransformer3DModel:
    """The low-noise expert of Wan2.2-I2V-A14B, on the device."""
    if (folder := original_folder(spec)) is not None:
        config = original_config(folder)
        _refuse_other_wan(Component(str(folder), None, config))
        return load_original(folder, config, device, dtype)
    given = Path(spec).expanduser()
    if given.name == HIGH_NOISE and (given.parent / LOW_NOISE).is_dir():
        refuse_high_noise(given, LOW_NOISE, f"{HIGH_NOISE}, beside a folder {LOW_NOISE}")
    found = locate(spec, LOW_NOISE, WanTransformer3DModel.__name__)
    _refuse_other_wan(found)
    try:
        return WanTransformer3DModel.from_pretrained(
            found.source,
            subfolder=found.subfolder,
            torch_dtype=dtype,
            device_map={"": str(device)},
        )
    except (OSError, SafetensorError, NotImplementedError) as cause:  # the last: tensors missing
        raise WeightsFault(
            "These weights cannot be read.",
            where=found.place,
            expected="all files that the folder's index names, whole, with all of Wan's tensors",
            got=str(cause).partition("\n")[0],
            fix="Fetch the folder again, with all its files.",
        ) from cause


def _refuse_other_wan(found: Component) -> None:
    """Raises WeightsFault unless a configuration is that of an expert of Wan2.2-I2V-A14B."""
    if (got := _other_wan(found.config)) is None:
        return
    raise WeightsFault(
        "This transformer is not of Wan2.2-I2V-A14B.",
        where=found.place,
        expected=f"{IN_CHANNELS} input and {LATENT_CHANNELS} output channels, no image encoder",
        got=got,
        fix="Give the diffusers folder or hub id of Wan2.2-I2V-A14B.",
    )


def _other_wan(config: dict[str, Any]) -> str | None:
    """What another Wan's configuration is, in words; None for Wan2.2-I2V-A14B's."""
    channels = (config.get("in_channels"), config.get("out_channels"))
    if config.get("image_dim") is not None or config.get("added_kv_proj_dim") is not None:
        return "an image encoder's projection: Wan2.1-I2V"
    if channels == (IN_CHANNELS, LATENT_CHANNELS):
        return None
    known = {"48 and 48": "TI2V-5B", f"{LATENT_CHANNELS} and {LATENT_CHANNELS}": "text to video"}
    got = f"{channels[0]} and {channels[1]}"
    return f"{got} channels: {known.get(got, 'an unknown model')}"


def _tiny_wan(dtype: torch.dtype) -> WanTransformer3DModel:
    """A small transformer of the real class with the same random weights every time."""
    with initial_weights_from(torch.Generator().manual_seed(0)):
        wan = WanTransformer3DModel(**_TINY)
    put_in_dtype(wan, dtype)
    return wan


def put_in_dtype(wan: WanTransformer3DModel, dtype: torch.dtype) -> None:
    """Puts weights into a type as `from_pretrained` does: norms, tables and clock in float32."""
    for name, parameter in wan.named_parameters():
        if not stays_in_float32(wan, name):
            parameter.data = parameter.data.to(dtype)


def add_self_attention_lora(
    wan: WanTransformer3DModel, settings: LoraSettings, generator: torch.Generator
) -> None:
    """Adds a LoRA in float32 to every self-attention; the output does not change (B = 0).

    A is drawn from `generator` on the CPU, so it is the same on every device. peft freezes all
    other parameters on the way: say what trains afterwards.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=r"blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)",
    )
    with torch.random.fork_rng(devices=[wan.device] if wan.device.type == "cuda" else []):
        wan.add_adapter(config, adapter_name=ADAPTER)
    for layer in wan.modules():
        if isinstance(layer, LoraLayer):
            _initialise(layer, generator)


def _initialise(layer: nn.Module, generator: torch.Generator) -> None:
    """Sets a layer's A to uniform ±1/sqrt(fan in), as peft does, and its B to zero."""
    down = layer.get_parameter(f"lora_A.{ADAPTER}.weight")
    up = layer.get_parameter(f"lora_B.{ADAPTER}.weight")
    bound = down.shape[1] ** -0.5
    drawn = torch.empty(down.shape, device=generator.device, dtype=TRAINABLE_DTYPE)
    down.data = drawn.uniform_(-bound, bound, generator=generator).to(down.device)
    up.data = torch.zeros_like(up, dtype=TRAINABLE_DTYPE)
