"""STTransformer (paper 8.1.1, Table 7): attention over each view's cells, then over the views.

Not causal; the views stand where GenieRedux's STTransformer has frames.
"""

from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from exo2ego.model.views import by_views
from stores.errors import ShapeFault
from stores.schema import LATENT_CHANNELS, PATCH, RAY_CHANNELS

CHANNELS = LATENT_CHANNELS + RAY_CHANNELS
"""Of each view's input and output cells (paper 8.1.1: 22)."""
COSINE_SCALE = 8.0
"""Fixed factor of the cosines before the softmax, as in GenieRedux."""
GEGLU_SHARE = 2 / 3
"""Keeps a gated layer's parameters at those of an ungated one of the same multiplier."""
LEAK = 0.1
"""Slope of the position bias's rectifiers below zero, as in GenieRedux."""
NEIGHBOURS = 3
"""Width of the position encoding generator's kernel along views, rows and columns."""


class STTransformerSettings(BaseModel):
    """Size of the STTransformer. ST-S of the paper is width 256, blocks 4, heads 4."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["st_transformer"] = "st_transformer"
    width: int = Field(default=512, gt=0, description="width of a token (Table 7: dim)")
    blocks: int = Field(
        default=8, gt=0, description="space-then-views blocks (Table 7: num blocks)"
    )
    heads: int = Field(default=8, gt=0, description="attention heads (Table 7)")
    head_width: int = Field(default=64, gt=0, description="width of a head (Table 7: dim head)")
    ff_multiplier: float = Field(
        default=4.0, gt=0, description="feed-forward width over width (Table 7)"
    )
    patch: int = Field(
        default=PATCH,
        gt=0,
        description="latent cells per token, both ways; not given: Wan's own grid",
    )


class AlignPrediction(NamedTuple):
    """The 22 output channels, by what they are."""

    latent: Float[Tensor, "b c h w"]
    """Normalised latent of the first ego frame."""
    rays: Float[Tensor, "b 6 h w"]
    """The ray channels, which the latent's loss leaves alone."""


class STTransformer(nn.Module):
    """First ego frame's latent, from the views' first latents and the ego rays in each view.

    Choice: the paper does not say how four outputs become one; here the mean over views. All
    views share one embedding (GenieRedux has its own for the first frame: no view is first).
    """

    def __init__(self, settings: STTransformerSettings):
        super().__init__()
        self.patch = settings.patch
        cells = CHANNELS * self.patch**2
        self.embed = nn.Sequential(
            nn.LayerNorm(cells), nn.Linear(cells, settings.width), nn.LayerNorm(settings.width)
        )
        self.position_bias = PositionBias(settings.width, settings.heads)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.blocks))
        self.norm_out = nn.LayerNorm(settings.width, bias=False)
        self.unembed = nn.Linear(settings.width, cells)

    def forward(
        self, exo_first: Float[Tensor, "b v c h w"], align_rays: Float[Tensor, "b v 6 h w"]
    ) -> AlignPrediction:
        """Latent (and rays) of the first ego frame, for any number of views; NaN views are absent.

        Raises ShapeFault unless the patch divides rows and columns.
        """
        self._check_grid(exo_first.shape[-2:])
        out = by_views(self._channels, (exo_first, align_rays))
        return AlignPrediction(out[:, :LATENT_CHANNELS], out[:, LATENT_CHANNELS:])

    def _channels(
        self, exo_first: Float[Tensor, "b v c h w"], align_rays: Float[Tensor, "b v 6 h w"]
    ) -> Float[Tensor, "b channels h w"]:
        """Latent and ray channels of the first ego frame, of clips that all have these views."""
        joined = torch.cat([exo_first, align_rays], dim=2)
        cut = {"y": self.patch, "x": self.patch}
        patches = rearrange(joined, "b v c (h y) (w x) -> b v h w (c y x)", **cut)
        tokens = self.embed(patches)
        bias = self.position_bias(tokens.shape[2], tokens.shape[3])
        for block in self.blocks:
            tokens = block(tokens, bias)
        cells = self.unembed(self.norm_out(tokens)).mean(dim=1)
        return rearrange(cells, "b h w (c y x) -> b c (h y) (w x)", **cut)

    def _check_grid(self, hw: torch.Size) -> None:
        """Raises ShapeFault unless the patch divides the grid."""
        if any(side % self.patch for side in hw):
            raise ShapeFault(
                "EgoExo-Align's patch does not divide the latent grid.",
                where="align.patch",
                expected=f"a divisor of {hw[0]} and {hw[1]}",
                got=self.patch,
                fix=f"Use patch {PATCH} or 1.",
            )


class Block(nn.Module):
    """Attention over the cells of each view, then over the views at each cell."""

    def __init__(self, settings: STTransformerSettings):
        super().__init__()
        self.space = Half(settings)
        self.views = Half(settings)

    def forward(
        self, tokens: Float[Tensor, "b v h w d"], bias: Float[Tensor, "heads n n"]
    ) -> Float[Tensor, "b v h w d"]:
        """The next tokens; `bias` is of cell on cell, and the views have none."""
        b, _, h, _, _ = tokens.shape
        tokens = self.space.see_neighbours(tokens)
        rows = rearrange(tokens, "b v h w d -> (b v) (h w) d")
        rows = self.space(rows, bias)
        tokens = rearrange(rows, "(b v) (h w) d -> b v h w d", b=b, h=h)
        tokens = self.views.see_neighbours(tokens)
        rows = rearrange(tokens, "b v h w d -> (b h w) v d")
        rows = self.views(rows, None)
        return rearrange(rows, "(b h w) v d -> b v h w d", b=b, h=h)


class Half(nn.Module):
    """One axis's position encoding, attention and feed-forward, each added to its input."""

    def __init__(self, settings: STTransformerSettings):
        super().__init__()
        width = settings.width
        self.neighbours = nn.Conv3d(width, width, NEIGHBOURS, padding=NEIGHBOURS // 2, groups=width)
        self.attention = CosineAttention(width, settings.heads, settings.head_width)
        inner = int(settings.ff_multiplier * GEGLU_SHARE * width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * inner, bias=False),
            GatedGelu(),
            nn.Linear(inner, width, bias=False),
        )

    def see_neighbours(self, tokens: Float[Tensor, "b v h w d"]) -> Float[Tensor, "b v h w d"]:
        """Tokens with their neighbours' trace: the only sign of a view's place among the views."""
        grid = self.neighbours(rearrange(tokens, "b v h w d -> b d v h w"))
        return tokens + rearrange(grid, "b d v h w -> b v h w d")

    def forward(
        self, rows: Float[Tensor, "rows n d"], bias: Float[Tensor, "heads n n"] | None
    ) -> Float[Tensor, "rows n d"]:
        """Rows after attention within each, and the feed-forward."""
        rows = rows + self.attention(rows, bias)
        return rows + self.feed_forward(rows)


class CosineAttention(nn.Module):
    """Attention by scaled cosines: queries and keys are unit vectors times learned scales."""

    def __init__(self, width: int, heads: int, head_width: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head_width))
        self.k_scale = nn.Parameter(torch.ones(head_width))

    def forward(
        self, rows: Float[Tensor, "rows n d"], bias: Float[Tensor, "heads n n"] | None
    ) -> Float[Tensor, "rows n d"]:
        """What each token gathers from its row; `bias` is added to the logits."""
        normed = self.norm(rows)
        joined = torch.cat([self.to_q(normed), self.to_kv(normed)], dim=-1)
        q, k, v = rearrange(
            joined, "rows n (qkv heads d) -> qkv rows heads n d", qkv=3, heads=self.heads
        )
        q = functional.normalize(q, dim=-1) * self.q_scale
        k = functional.normalize(k, dim=-1) * self.k_scale
        gathered = functional.scaled_dot_product_attention(
            q.to(v.dtype),
            k.to(v.dtype),
            v,
            attn_mask=None if bias is None else bias.to(v.dtype),
            scale=COSINE_SCALE,
        )
        return self.to_out(rearrange(gathered, "rows heads n d -> rows n (heads d)"))


class GatedGelu(nn.Module):
    """The first half of the channels times the GELU of the second."""

    def forward(self, joined: Float[Tensor, "*rows d2"]) -> Float[Tensor, "*rows d"]:
        """Half as many channels as came in."""
        values, gate = joined.chunk(2, dim=-1)
        return values * functional.gelu(gate)


class PositionBias(nn.Module):
    """A learned logit for every offset between two cells, one per head, shared by all blocks.

    Offsets enter as sign(x) log(|x| + 1), so that it carries over to larger grids.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, width),
            nn.LeakyReLU(LEAK),
            nn.Linear(width, width),
            nn.LeakyReLU(LEAK),
            nn.Linear(width, heads),
        )

    def forward(self, h: int, w: int) -> Float[Tensor, "heads n n"]:
        """Bias of n x n cells, n = h w, row by row. The net runs once per distinct offset."""
        device = next(self.parameters()).device
        down, right = torch.arange(1 - h, h, device=device), torch.arange(1 - w, w, device=device)
        offsets = torch.stack(torch.meshgrid(down, right, indexing="ij"), dim=-1).float()
        biases = self.net(offsets.sign() * offsets.abs().log1p())
        return rearrange(biases[offset_indices(h, w, device)], "n m heads -> heads n m")


def offset_indices(
    h: int, w: int, device: torch.device
) -> tuple[Int[Tensor, "n n"], Int[Tensor, "n n"]]:
    """Row and column in the table of offsets, for every pair of cells."""
    rows, columns = torch.meshgrid(
        torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij"
    )
    rows, columns = rows.flatten(), columns.flatten()
    return (
        rows[:, None] - rows[None, :] + h - 1,
        columns[:, None] - columns[None, :] + w - 1,
    )
