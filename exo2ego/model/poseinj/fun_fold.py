"""PoseInj as in Wan2.2-Fun's camera control: frames folded onto channels, not convolved."""

from typing import Literal

from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from exo2ego.model.folding import fold_frames
from exo2ego.model.poseinj.embedding import Added
from exo2ego.model.poseinj.rays_read import ReadsRays
from stores.schema import RAY_CHANNELS, VAE_FRAME_STRIDE, VAE_PIXEL_STRIDE


class FunFoldSettings(ReadsRays):
    """A latent frame's four source frames and a cell's 8x8 pixels on channels, then added.

    The design of the published Wan2.2-Fun camera model, which says what the paper's convolutions
    add to it. Choice: it starts as zero, so that stage 2 starts where stage 1 ended.
    """

    name: Literal["fun-fold"] = "fun-fold"
    residual_blocks: int = Field(
        default=1, ge=0, description="of 3x3 convolutions of the model's width (Wan2.2-Fun: 1)"
    )


class FoldedRays(nn.Module):
    """All numbers of the rays that a latent cell covers in time and space; nothing is learned."""

    def forward(self, ego_rays: Float[Tensor, "b T 6 H W"]) -> Float[Tensor, "b p t h w"]:
        """The numbers; frame j has those of RGB frames 4j - 3 to 4j."""
        side = VAE_PIXEL_STRIDE
        folded = fold_frames(ego_rays)
        return rearrange(folded, "b t r (h y) (w x) -> b (r y x) t h w", y=side, x=side)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions within each frame, added to what comes in; zeros stay zeros at first."""

    def __init__(self, width: int):
        super().__init__()
        kernel, padding = (1, 3, 3), (0, 1, 1)
        self.first = nn.Conv3d(width, width, kernel, padding=padding)
        self.second = nn.Conv3d(width, width, kernel, padding=padding)
        for layer in (self.first, self.second):
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, tokens: Float[Tensor, "b d t h w"]) -> Float[Tensor, "b d t h w"]:
        """The tokens and what their neighbourhood adds."""
        return tokens + self.second(nn.functional.relu(self.first(tokens)))


def fun_fold(settings: FunFoldSettings, width: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and join for hidden states of that width."""
    features = RAY_CHANNELS * VAE_FRAME_STRIDE * VAE_PIXEL_STRIDE**2
    blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(settings.residual_blocks)))
    return FoldedRays(), Added(features, width, then=blocks)
