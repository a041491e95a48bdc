"""Wan2.2-I2V-A14B's low-noise transformer: loading it, and the LoRA on its self-attention."""

import torch
from accelerate import init_empty_weights
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from jaxtyping import Float
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from exo2ego.model.pretrained import TINY
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.wan_expert import IN_CHANNELS, WanShape, find_expert
from exo2ego.model.weight_files import fill
from stores.schema import LATENT_CHANNELS

ADAPTER = "default"
"""Name of our LoRA among peft's adapters: part of every checkpoint's names."""
_PUBLISHED = WanShape(in_channels=IN_CHANNELS, out_channels=LATENT_CHANNELS)
_TINY = WanShape(
    num_attention_heads=4,
    attention_head_dim=12,
    in_channels=IN_CHANNELS,
    out_channels=LATENT_CHANNELS,
    text_dim=32,
    freq_dim=20,
    ffn_dim=64,
    num_layers=2,
)
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
    """The frozen low-noise expert of a folder (diffusers' or the authors' layout), a hub id,
    "mini" (shipped) or "tiny" (random); without text. Weights go straight to the device, one
    tensor at a time.

    Its text projection is replaced by the identity: what it attends to are exo tokens, already
    of the model's width (paper 3.4.1). Norms, the time embedder and the modulation tables stay
    in float32 whatever `dtype` is. Raises WeightsFault for any other Wan, for the high-noise
    expert, and for weights that are damaged, not finite, or in pickle form alone.
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
        wan = WanTransformer3DModel(**_shape(spec).model_dump())
    put_in_dtype(wan, dtype)
    detach_text(wan)
    return wan.requires_grad_(False)


def _shape(spec: str | None) -> WanShape:
    """The arguments that a Wan is made with. Raises WeightsFault as `load_wan` does."""
    if spec is None:
        return _PUBLISHED
    return _TINY if spec == TINY else find_expert(spec).shape


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
    expert = find_expert(spec)
    shape, stored = expert.weights()
    with init_empty_weights(include_buffers=False):
        wan = WanTransformer3DModel(**shape.model_dump())

    def dtype_of(name: str) -> torch.dtype:
        return torch.float32 if _stays_in_float32(wan, name) else dtype

    fill(wan, stored, device, dtype_of, expert.part.folder)
    return wan


def _stays_in_float32(wan: WanTransformer3DModel, name: str) -> bool:
    """Whether diffusers keeps the parameter of that name in float32, whatever the model's type."""
    return not set(wan._keep_in_fp32_modules or ()).isdisjoint(name.split("."))


def _tiny_wan(dtype: torch.dtype) -> WanTransformer3DModel:
    """A small transformer of the real class with the same random weights every time."""
    with initial_weights_from(torch.Generator().manual_seed(0)):
        wan = WanTransformer3DModel(**_TINY.model_dump())
    put_in_dtype(wan, dtype)
    return wan


def put_in_dtype(wan: WanTransformer3DModel, dtype: torch.dtype) -> None:
    """Puts weights into a type as `from_pretrained` does: norms, tables and clock in float32."""
    for name, parameter in wan.named_parameters():
        if not _stays_in_float32(wan, name):
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
