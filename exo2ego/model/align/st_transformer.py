"""STTransformer (paper 8.1.1, Table 7): attention over each view's cells, then over the views.

Not causal; the views stand where GenieRedux's STTransformer has frames.
"""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from exo2ego.model.align.attention import CosineAttention, feed_forward
from exo2ego.model.align.prediction import (
    CHANNELS,
    AlignGiven,
    AlignPrediction,
    check_patch,
    predict,
)
from stores.schema import PATCH

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

    @property
    def reads(self) -> tuple[str, ...]:
        """What the model is given beside the views' first latents."""
        return ("align_rays",)


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

    def forward(self, given: AlignGiven) -> AlignPrediction:
        """Latent (and rays) of the first ego frame, for any number of views.

        Raises ShapeFault unless the patch divides rows and columns, AlignFault without rays.
        """
        check_patch(self.patch, given.exo_first.shape[-2:])
        return predict(self._channels, given)

    def _channels(self, given: AlignGiven) -> Float[Tensor, "b channels h w"]:
        """Latent and ray channels of the first ego frame, of clips that all have these views."""
        joined = torch.cat([given.exo_first, given.rays], dim=2)
        cut = {"y": self.patch, "x": self.patch}
        patches = rearrange(joined, "b v c (h y) (w x) -> b v h w (c y x)", **cut)
        tokens = self.embed(patches)
        bias = self.position_bias(tokens.shape[2], tokens.shape[3])
        for block in self.blocks:
            tokens = block(tokens, bias)
        cells = self.unembed(self.norm_out(tokens)).mean(dim=1)
        return rearrange(cells, "b h w (c y x) -> b c (h y) (w x)", **cut)


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
        self.feed_forward = feed_forward(width, settings.ff_multiplier)

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
