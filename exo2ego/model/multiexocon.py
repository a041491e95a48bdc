"""MultiExoCon (paper 3.4.1): exo videos as the tokens that Wan attends to in place of text."""

from typing import Annotated, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from exo2ego.model.wan import TRAINABLE_DTYPE
from stores.errors import ShapeFault
from stores.schema import LATENT_CHANNELS, PATCH_3D


class NoPositions(BaseModel):
    """Tokens carry no position and no view: the paper names none."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["none"] = "none"


class LearnedPositions(BaseModel):
    """A learned vector for each view, latent frame, row and column, added to their tokens.

    They start at zero, so that training starts as it does without them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["learned"] = "learned"
    views: int = Field(default=4, gt=0, description="most views (paper: 4)")
    frames: int = Field(default=3, gt=0, description="most latent frames (9 RGB frames: 3)")
    rows: int = Field(default=16, gt=0, description="most rows of tokens (256 pixels: 16)")
    columns: int = Field(default=16, gt=0, description="most columns of tokens (256 pixels: 16)")


class MultiExoConSettings(BaseModel):
    """What the exo tokens are beside the paper's patch embedding."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    null: Literal["zero", "learned"] = Field(
        default="zero",
        description="the token in place of all of a clip's exo tokens, where they are dropped and "
        "for guidance. Choice: the paper does not name one",
    )
    positions: Annotated[NoPositions | LearnedPositions, Field(discriminator="name")] = Field(
        default=NoPositions(), description="what is added to the tokens of each place (3.4.1: none)"
    )


class ExoTokens(nn.Module):
    """The paper's patch embedding of exo latents: a token for every 2x2 cells of every frame.

    Choice: it starts as Wan's own embedding of noisy latents, so that exo tokens lie where Wan's
    tokens lie; the paper does not say how it starts.
    """

    def __init__(
        self,
        patch_embedding: nn.Conv3d,
        settings: MultiExoConSettings = MultiExoConSettings(),  # noqa: B008 (frozen)
    ):
        super().__init__()
        width = patch_embedding.out_channels
        place = {"device": patch_embedding.weight.device, "dtype": TRAINABLE_DTYPE}
        self.embed = nn.Conv3d(
            LATENT_CHANNELS,
            width,
            kernel_size=PATCH_3D,
            stride=PATCH_3D,
            device="meta",
            dtype=TRAINABLE_DTYPE,
        ).to_empty(device=patch_embedding.weight.device)
        start = patch_embedding.state_dict()
        self.embed.load_state_dict(
            {"weight": start["weight"][:, :LATENT_CHANNELS], "bias": start["bias"]}
        )
        learned = settings.positions
        self.positions = (
            Positions(learned, width).to(**place) if isinstance(learned, LearnedPositions) else None
        )
        self.learned_null = (
            nn.Parameter(torch.zeros(1, 1, width, **place)) if settings.null == "learned" else None
        )

    @property
    def null(self) -> Float[Tensor, "1 1 d"]:
        """The token that stands for exo videos that are not shown."""
        if self.learned_null is not None:
            return self.learned_null
        return self.embed.weight.new_zeros(1, 1, self.embed.out_channels)

    def forward(
        self,
        exo_latents: Float[Tensor, "b v c t h w"],
        places: Int[Tensor, "b v"],
        keep: Bool[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Tokens in order view, time, row, column; all of them the null one where `keep` is False.

        `places` are the views' numbers among all of the clip's.
        """
        videos = rearrange(exo_latents, "b v c t h w -> (b v) c t h w").to(self.embed.weight.dtype)
        grid = rearrange(self.embed(videos), "(b v) d t h w -> b v t h w d", b=exo_latents.shape[0])
        if self.positions is not None:
            grid = grid + self.positions(places, *grid.shape[2:5])
        tokens = rearrange(grid, "b v t h w d -> b (v t h w) d")
        return tokens if keep is None else torch.where(keep[:, None, None], tokens, self.null)


class Positions(nn.Module):
    """Learned vectors of views, latent frames, rows and columns, at first zero."""

    def __init__(self, settings: LearnedPositions, width: int):
        super().__init__()
        sizes = (settings.views, settings.frames, settings.rows, settings.columns)
        self.view, self.frame, self.row, self.column = (
            nn.Parameter(torch.zeros(size, width)) for size in sizes
        )

    def forward(
        self, places: Int[Tensor, "b v"], t: int, h: int, w: int
    ) -> Float[Tensor, "b v t h w d"]:
        """What is added to the tokens. Raises ShapeFault if there are more than were learned."""
        got = {"views": places.shape[1], "frames": t, "rows": h, "columns": w}
        learned = (self.view, self.frame, self.row, self.column)
        most = dict(zip(got, map(len, learned), strict=True))
        if any(got[axis] > most[axis] for axis in got):
            raise ShapeFault(
                "The exo tokens' grid is larger than their learned positions.",
                where="exo.positions",
                expected=f"at most {most}",
                got=got,
                fix="Train with larger positions (exo.positions.views, frames, rows, columns).",
            )
        return (
            rearrange(self.view[places], "b v d -> b v 1 1 1 d")
            + rearrange(self.frame[:t], "t d -> t 1 1 d")
            + rearrange(self.row[:h], "h d -> h 1 d")
            + self.column[:w]
        )
