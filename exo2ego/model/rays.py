"""Rays of every pixel and frame, brought onto the latent grid without looking ahead in time."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stores.schema import RAY_CHANNELS, VAE_PIXEL_STRIDE

KERNEL_FRAMES, STRIDE_FRAMES = 3, 2
"""Of each of the two causal convolutions; together they take the VAE's stride of 4 frames."""


class CausalConv(nn.Module):
    """Convolution over time alone, of stride 2, that sees no later frame."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv3d(
            in_channels, out_channels, (KERNEL_FRAMES, 1, 1), stride=(STRIDE_FRAMES, 1, 1)
        )

    def forward(self, frames: Float[Tensor, "b c T h w"]) -> Float[Tensor, "b c2 t h w"]:
        """Frame j sees frames up to 2j: zeros stand before the first."""
        return self.conv(functional.pad(frames, (0, 0, 0, 0, KERNEL_FRAMES - 1, 0)))


class RayEncoder(nn.Sequential):
    """Features of the rays on the latent grid; frame j depends on RGB frames up to 4j.

    Choice: a cell's 8x8 pixels become channels, which loses nothing; then two causal convolutions.
    """

    def __init__(self, width: int):
        first = CausalConv(RAY_CHANNELS * VAE_PIXEL_STRIDE**2, width)
        super().__init__(first, nn.SiLU(), CausalConv(width, width), nn.SiLU())

    def forward(self, ego_rays: Float[Tensor, "b T 6 H W"]) -> Float[Tensor, "b p t h w"]:
        """The features, from rays in any dtype."""
        side = VAE_PIXEL_STRIDE
        cells = rearrange(ego_rays, "b T r (h y) (w x) -> b (r y x) T h w", y=side, x=side)
        dtype = next(self.parameters()).dtype
        return super().forward(cells.to(dtype))
