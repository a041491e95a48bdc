"""PoseInj with the paper's words read literally: causal 1D convolutions for each pixel."""

from typing import Literal

from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from exo2ego.model.poseinj.embedding import Concatenated
from exo2ego.model.poseinj.rays_read import ReadsRays
from exo2ego.model.rays import CausalConv
from stores.schema import RAY_CHANNELS, VAE_PIXEL_STRIDE


class PerPixelSettings(ReadsRays):
    """One causal 1D convolution for all pixels, on the pixel grid, before the latent grid.

    "A sequence of causal 1D convolutions to transform the Plücker coordinate sequence for each
    pixel into a representation for each spatial grid" (3.4.2). Choice: widths, and how 8x8 pixels
    become a cell: side by side on channels, then one linear map.
    """

    name: Literal["per-pixel"] = "per-pixel"
    pixel_width: int = Field(default=16, gt=0, description="channels of a pixel; not given")
    latent_width: int = Field(
        default=128, gt=0, description="channels on the latent grid; not given"
    )
    token_width: int = Field(
        default=256, gt=0, description="channels concatenated per token; not given"
    )


class PixelRays(nn.Module):
    """Features of the rays on the latent grid; frame j depends on RGB frames up to 4j."""

    def __init__(self, pixel_width: int, latent_width: int):
        super().__init__()
        self.pixels = nn.Sequential(
            CausalConv(RAY_CHANNELS, pixel_width),
            nn.SiLU(),
            CausalConv(pixel_width, pixel_width),
            nn.SiLU(),
        )
        self.cells = nn.Conv3d(pixel_width * VAE_PIXEL_STRIDE**2, latent_width, 1)

    def forward(self, ego_rays: Float[Tensor, "b T 6 H W"]) -> Float[Tensor, "b p t h w"]:
        """The features."""
        pixels = self.pixels(rearrange(ego_rays, "b T r H W -> b r T H W"))
        side = VAE_PIXEL_STRIDE
        cells = rearrange(pixels, "b p t (h y) (w x) -> b (p y x) t h w", y=side, x=side)
        return self.cells(cells)


def per_pixel(settings: PerPixelSettings, width: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and join for hidden states of that width."""
    encoder = PixelRays(settings.pixel_width, settings.latent_width)
    return encoder, Concatenated(settings.latent_width, settings.token_width, width)
