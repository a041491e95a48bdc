"""AC3D (paper Tables 1, 5 and 6): narrow transformer blocks in which rays meet the hidden state."""

import math
from typing import Any, ClassVar, Literal

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import Timesteps
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanAttnProcessor,
    WanTransformer3DModel,
)
from einops import rearrange
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from exo2ego.model.rays import RayEncoder
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.wan import TRAINABLE_DTYPE, wan_dtype, wan_width
from stores.errors import ShapeFault, UserFault
from stores.schema import PATCH_3D

MODULATIONS = 6
"""Shift, scale and gate of attention, and of the feed-forward layers."""


class Ac3dSettings(BaseModel):
    """A narrow block beside each of Wan's blocks, or one beside them all.

    Choice: the paper gives the widths and the sharing alone. Here each of Wan's blocks has one
    (AC3D has them beside the first), it sees the hidden state through a projection to its width,
    and rays are added there. A shared block shares its projections, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reads: ClassVar[str | None] = "ego_rays"
    name: Literal["ac3d"] = "ac3d"
    width: int = Field(default=512, gt=0, description="of the narrow blocks (Table 6: 512 or 2048)")
    shared: bool = Field(default=False, description="one narrow block for all (Table 6)")
    latent_width: int = Field(
        default=128, gt=0, description="channels of the rays on the latent grid; not given"
    )


class WidthFault(UserFault, ValueError):
    """A narrow block that Wan's attention heads do not divide."""


class SideBlock(nn.Module):
    """What is added to the hidden state before one of Wan's blocks; zero at the start.

    Choice: heads are as wide as Wan's, so that Wan's rotary positions serve here, too.
    """

    def __init__(self, wan_width: int, width: int, head_width: int, eps: float):
        super().__init__()
        self.compress = nn.Linear(wan_width, width)
        self.table = nn.Parameter(torch.randn(1, MODULATIONS, width) / width**0.5)
        self.norm = nn.LayerNorm(width, eps, elementwise_affine=False)
        heads = width // head_width
        self.attention = WanAttention(
            dim=width, heads=heads, dim_head=head_width, eps=eps, processor=WanAttnProcessor()
        )
        self.feed_forward = FeedForward(width, activation_fn="gelu-approximate")
        self.expand = nn.Linear(width, wan_width)
        for start in self.expand.parameters():
            nn.init.zeros_(start)

    def forward(
        self, hidden: Float[Tensor, "b n d"], told: Float[Tensor, "b m s"], rotary: tuple[Any, Any]
    ) -> Float[Tensor, "b n d"]:
        """`told` is what `Ac3d.told` makes: modulations of the time, then a ray for each token."""
        time, rays = told[:, :MODULATIONS], told[:, MODULATIONS:]
        shift, scale, gate, shift2, scale2, gate2 = (self.table + time).chunk(MODULATIONS, dim=1)
        state = self.compress(hidden) + rays
        seen = self.norm(state) * (1 + scale) + shift
        state = state + gate * self.attention(seen, rotary_emb=rotary)
        seen = self.norm(state) * (1 + scale2) + shift2
        state = state + gate2 * self.feed_forward(seen)
        return self.expand(state)


class Ac3d(nn.Module):
    """Encodes rays and time; the narrow blocks live in Wan's blocks, as `side`.

    Wan hands to each block what it is told in place of text, and a hook that has all it needs
    from the block's own input runs the narrow block. Nothing is remembered between calls, so
    checkpointing and compilation of the blocks see it as a part of them; no weight of Wan changes
    its name.
    """

    reads = "ego_rays"

    def __init__(
        self, wan: WanTransformer3DModel, settings: Ac3dSettings, generator: torch.Generator
    ):
        super().__init__()
        _check_width(wan, settings.width)
        clock = wan.config["freq_dim"]
        self.clock = Timesteps(clock, flip_sin_to_cos=True, downscale_freq_shift=0)
        with initial_weights_from(generator):
            self.rays = RayEncoder(settings.latent_width)
            self.tokens = nn.Conv3d(settings.latent_width, settings.width, PATCH_3D, PATCH_3D)
            self.time = nn.Sequential(
                nn.Linear(clock, settings.width),
                nn.SiLU(),
                nn.Linear(settings.width, MODULATIONS * settings.width),
            )
        self.to(wan.device, TRAINABLE_DTYPE)
        _add_side_blocks(wan, settings, generator)

    def encode(self, ego_rays: Float[Tensor, "b T 6 H W"]) -> Float[Tensor, "b n s"]:
        """Features of the rays for each of Wan's tokens, in Wan's order."""
        return rearrange(self.tokens(self.rays(ego_rays)), "b s t h2 w2 -> b (t h2 w2) s")

    def told(
        self, rays: Float[Tensor, "b n s"], timestep: Float[Tensor, " b"], grid: tuple[int, ...]
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, "b m s"]]:
        """Timestep and text as Wan is to be called: six modulations of the time, then the rays.

        `grid` counts tokens: frames, rows, columns. Raises ShapeFault for rays of another.
        """
        if rays.shape[1] != math.prod(grid):
            raise ShapeFault(
                "There are rays of another grid than the video has.",
                where="ego_rays",
                expected=f"rays for {' x '.join(map(str, grid))} = {math.prod(grid)} tokens",
                got=f"rays for {rays.shape[1]} tokens",
                fix="Give a ray for every pixel of every frame of the video.",
            )
        time = self.time(self.clock(timestep).to(TRAINABLE_DTYPE))
        modulations = rearrange(time, "b (m s) -> b m s", m=MODULATIONS)
        return timestep, torch.cat([modulations.to(rays.dtype), rays], dim=1)


def _add_side_blocks(
    wan: WanTransformer3DModel, settings: Ac3dSettings, generator: torch.Generator
) -> None:
    """Puts a narrow block into each of Wan's blocks; on the meta device nothing is drawn.

    They are of Wan's own type, as its other weights that train: in training those become float32.
    One after the other, so that little memory is needed on the way.
    """
    sizes = wan_width(wan), settings.width, wan.config["attention_head_dim"], wan.config["eps"]
    device, dtype = wan.device, wan_dtype(wan)
    side: SideBlock | None = None
    for block in wan.blocks:
        if side is None or not settings.shared:
            made_on = torch.device("meta" if device.type == "meta" else "cpu")
            with initial_weights_from(generator), made_on:
                side = SideBlock(*sizes)
            side.to(device, dtype)
        block.register_module("side", side)
        block.register_forward_pre_hook(_meet_the_rays)


def _meet_the_rays(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A block's input with the narrow block's output added, and one zero token for text."""
    hidden, told, modulation, rotary = inputs
    added = block.get_submodule("side")(hidden, told, rotary)
    nothing = hidden.new_zeros(hidden.shape[0], 1, hidden.shape[2])
    return hidden + added.to(hidden.dtype), nothing, modulation, rotary


def _check_width(wan: WanTransformer3DModel, width: int) -> None:
    head_width = wan.config["attention_head_dim"]
    if width % head_width:
        raise WidthFault(
            "AC3D's width does not fit Wan's attention heads.",
            where="vawan.pose.width",
            expected=f"a multiple of {head_width}, the width of a head",
            got=width,
            fix=f"Use {max(1, width // head_width) * head_width}.",
        )
