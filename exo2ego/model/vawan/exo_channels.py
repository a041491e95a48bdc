"""Exo videos on the channels of Wan's input, and the patch embedding that takes them."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from exo2ego.model.wan import TRAINABLE_DTYPE
from exo2ego.model.wan_expert import IN_CHANNELS
from stores.errors import ShapeFault
from stores.schema import LATENT_CHANNELS, PATCH_3D

ChannelLayout = Literal["with-image", "exo-only"]
KEPT: dict[ChannelLayout, int] = {"with-image": IN_CHANNELS, "exo-only": LATENT_CHANNELS}
"""How many of Wan's own input channels stay before those of the exo videos."""


def exo_channels(
    exo_latents: Float[Tensor, "b v c t h w"], views: int, keep: Bool[Tensor, " b"] | None = None
) -> Float[Tensor, "b k t h w"]:
    """The first `views` exo videos on channels, in their order; zero where `keep` is False.

    A view that a clip lacks (NaN) is zero too. Raises ShapeFault if there are fewer views.
    """
    if exo_latents.shape[1] < views:
        raise ShapeFault(
            "There are fewer exo views than VAWAN has channels for.",
            where="views of a clip",
            expected=f"at least {views}",
            got=exo_latents.shape[1],
            fix=f"Train with --set vawan.views={exo_latents.shape[1]}, or use a store of "
            f"{views} views.",
        )
    shown = exo_latents[:, :views]
    lacks = shown[:, :, :1, :1, :1, :1].isnan()
    if keep is not None:
        lacks = lacks | ~rearrange(keep, "b -> b 1 1 1 1 1")
    return rearrange(shown.masked_fill(lacks, 0), "b v c t h w -> b (v c) t h w")


class ExoEmbedding(nn.Module):
    """Takes the place of Wan's patch embedding, widened by the channels of the exo videos.

    A convolution over all channels is the sum of one over Wan's own and one over the new ones, so
    the widened weight is kept in two parts: Wan's, untouched, and new columns that start as zero.
    """

    def __init__(self, patch_embedding: nn.Conv3d, views: int, layout: ChannelLayout):
        super().__init__()
        self.latents = _first_channels(patch_embedding, KEPT[layout])
        width = patch_embedding.out_channels
        with torch.device("meta"):  # so that nothing is drawn
            columns = nn.Conv3d(views * LATENT_CHANNELS, width, PATCH_3D, PATCH_3D, bias=False)
        self.exo = columns.to_empty(device=patch_embedding.weight.device).to(TRAINABLE_DTYPE)
        nn.init.zeros_(self.exo.weight)

    @property
    def views(self) -> int:
        """How many exo videos it takes."""
        return self.exo.in_channels // LATENT_CHANNELS

    @property
    def kept(self) -> int:
        """Channels of Wan's own that it takes."""
        return self.latents.in_channels

    @property
    def in_channels(self) -> int:
        """All channels that it takes."""
        return self.kept + self.exo.in_channels

    def forward(self, channels: Float[Tensor, "b k t h w"]) -> Float[Tensor, "b d t h2 w2"]:
        """Embedded tokens; at the start those of Wan's own channels, bit for bit."""
        hidden = self.latents(channels[:, : self.kept])
        return hidden + self.exo(channels[:, self.kept :].to(self.exo.weight.dtype)).to(
            hidden.dtype
        )


def _first_channels(patch_embedding: nn.Conv3d, channels: int) -> nn.Conv3d:
    """The embedding of the first input channels alone; itself, if these are all."""
    if channels == patch_embedding.in_channels:
        return patch_embedding
    weight, bias = patch_embedding.weight[:, :channels], patch_embedding.bias
    with torch.device("meta"):
        narrow = nn.Conv3d(channels, weight.shape[0], PATCH_3D, PATCH_3D)
    narrow.load_state_dict({"weight": weight.detach().clone(), "bias": bias}, assign=True)
    return narrow
