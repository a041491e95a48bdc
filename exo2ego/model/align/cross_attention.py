"""Cross-Attn (paper Table 3): queries of the ego frame's cells attend to the cells of the views."""

import math
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float
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
from stores.schema import LATENT_CHANNELS, PATCH, RAY_CHANNELS

OCTAVES = 5
"""Waves of a place along each axis. Choice: the shortest is two tokens of a grid of 16 x 16."""


class CrossAttentionSettings(BaseModel):
    """Size of Cross-Attn. Choice: the paper gives none; this is STTransformer L's, to 1 %."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["cross_attention"]
    pose: bool = Field(
        default=True, description="whether the queries know the ego rays in each view (Table 3)"
    )
    width: int = Field(default=512, gt=0, description="width of a token; not given")
    blocks: int = Field(
        default=12, gt=0, description="blocks of views, cells, feed-forward; not given"
    )
    heads: int = Field(default=8, gt=0, description="attention heads; not given")
    head_width: int = Field(default=64, gt=0, description="width of a head; not given")
    ff_multiplier: float = Field(
        default=4.0, gt=0, description="feed-forward width over width; not given"
    )
    patch: int = Field(
        default=PATCH, gt=0, description="latent cells per token, both ways; not given"
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """What the model is given beside the views' first latents."""
        return ("align_rays",) if self.pose else ()


class CrossAttention(nn.Module):
    """First ego frame's latent: a query a cell, which gathers from all views, block by block.

    Choice: a query starts as an embedding of its place, so that any grid has queries. With pose,
    a view is asked by the query plus an embedding of that cell's ray in the view's own frame: what
    tells where to look in it. Tokens of a view carry their place, and no number of the view, so
    the order of the views does not matter.
    """

    def __init__(self, settings: CrossAttentionSettings):
        super().__init__()
        self.patch, width = settings.patch, settings.width
        places, area = 4 * OCTAVES, self.patch**2
        self.query = nn.Linear(places, width)
        # no norm before it: a patch's own mean and contrast are what is to be carried over
        self.embed = nn.Linear(LATENT_CHANNELS * area, width)
        self.embed_place = nn.Linear(places, width)
        self.embed_rays = None
        if settings.pose:
            self.embed_rays = nn.Sequential(
                nn.Linear(RAY_CHANNELS * area, width), nn.GELU(), nn.Linear(width, width)
            )
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.blocks))
        self.norm_out = nn.LayerNorm(width, bias=False)
        self.unembed = nn.Linear(width, CHANNELS * area)

    def forward(self, given: AlignGiven) -> AlignPrediction:
        """Latent (and rays) of the first ego frame, for any number of views.

        Raises ShapeFault unless the patch divides rows and columns, AlignFault if rays lack.
        """
        check_patch(self.patch, given.exo_first.shape[-2:])
        return predict(self._channels, given)

    def _channels(self, given: AlignGiven) -> Float[Tensor, "b channels h w"]:
        """Latent and ray channels of the first ego frame, of clips that all have these views."""
        b, _, _, h, w = given.exo_first.shape
        h, w, cut = h // self.patch, w // self.patch, {"y": self.patch, "x": self.patch}
        into_patches = "b v c (h y) (w x) -> b v (h w) (c y x)"
        places = place_waves(h, w, given.exo_first.device)
        tokens = self.embed(rearrange(given.exo_first, into_patches, **cut))
        tokens = tokens + self.embed_place(places)
        queries = repeat(self.query(places), "n d -> b n d", b=b)
        rays = None
        if self.embed_rays is not None:
            rays = self.embed_rays(rearrange(given.rays, into_patches, **cut))
        for block in self.blocks:
            queries = block(queries, rays, tokens)
        cells = self.unembed(self.norm_out(queries))
        return rearrange(cells, "b (h w) (c y x) -> b c (h y) (w x)", h=h, **cut)


class Block(nn.Module):
    """Attention to the views, then among the queries, then a feed-forward, each added."""

    def __init__(self, settings: CrossAttentionSettings):
        super().__init__()
        of_attention = (settings.width, settings.heads, settings.head_width)
        self.views = ViewsAttention(*of_attention)
        self.cells = CosineAttention(*of_attention)
        self.feed_forward = feed_forward(settings.width, settings.ff_multiplier)

    def forward(
        self,
        queries: Float[Tensor, "b n d"],
        rays: Float[Tensor, "b v n d"] | None,
        tokens: Float[Tensor, "b v m d"],
    ) -> Float[Tensor, "b n d"]:
        """The next queries; `rays` are embedded, None without pose."""
        asking = rearrange(queries, "b n d -> b 1 n d")
        asking = asking.expand(-1, tokens.shape[1], -1, -1) if rays is None else asking + rays
        queries = queries + self.views(asking, tokens)
        queries = queries + self.cells(queries, None)
        return queries + self.feed_forward(queries)


class ViewsAttention(nn.Module):
    """Attention within each view, then a weight a head for each view, by what was found there.

    Choice: as the queries differ from view to view, one softmax over the cells of all views
    would need its weights laid out in full.
    """

    def __init__(self, width: int, heads: int, head_width: int):
        super().__init__()
        self.attention = CosineAttention(width, heads, head_width)
        self.norm_tokens = nn.LayerNorm(width, bias=False)
        self.weigh = nn.Linear(head_width, 1, bias=False)

    def forward(
        self, asking: Float[Tensor, "b v n d"], tokens: Float[Tensor, "b v m d"]
    ) -> Float[Tensor, "b n d"]:
        """What each query gathers; the same in any order of the views, but for rounding."""
        per_view = "b v n d -> (b v) n d"
        normed = self.attention.norm(rearrange(asking, per_view))
        found = self.attention.gather(normed, rearrange(self.norm_tokens(tokens), per_view), None)
        found = rearrange(found, "(b v) heads n d -> b v heads n d", b=len(tokens))
        weights = self.weigh(found).softmax(dim=1)
        joined = (weights.to(found.dtype) * found).sum(dim=1)
        return self.attention.to_out(rearrange(joined, "b heads n d -> b n (heads d)"))


def place_waves(h: int, w: int, device: torch.device) -> Float[Tensor, "n waves"]:
    """Sines and cosines of each cell's place, row by row: 1, 2, 4, ... half turns a picture's side.

    Places are cell centres, -1 to 1 from edge to edge, so a larger grid has finer places.
    """
    down, right = ((2 * torch.arange(side, device=device) + 1) / side - 1 for side in (h, w))
    places = torch.stack(torch.meshgrid(down, right, indexing="ij"), dim=-1)
    turns = math.pi / 2 * 2 ** torch.arange(OCTAVES, device=device)
    angles = rearrange(places, "h w yx -> (h w) yx 1") * turns
    waves = torch.stack([angles.sin(), angles.cos()])
    return rearrange(waves, "two n yx octave -> n (two yx octave)")
