"""PoseInj in Wan: the patch embedding with rays of the ego camera, and how they are joined."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from exo2ego.model.wan import TRAINABLE_DTYPE
from stores.schema import PATCH_3D


class PoseInj(nn.Module):
    """Takes the place of Wan's patch embedding, and gives it the pose as extra input channels.

    The rays' features travel in the same tensor as the latents, so nothing is remembered
    between calls and checkpointing, compilation and context parallelism need not know of them.
    A form is an encoder of rays and a way to join; what they add is in float32.
    """

    def __init__(self, patch_embedding: nn.Conv3d, rays: nn.Module, join: nn.Module, reads: str):
        super().__init__()
        self.reads = reads
        """Name of the array that the rays come from."""
        self.latents = patch_embedding
        self.rays, self.join = (
            added.to(patch_embedding.weight.device, TRAINABLE_DTYPE) for added in (rays, join)
        )

    def encode(self, ego_rays: Float[Tensor, "b T 6 H W"]) -> Float[Tensor, "b p t h w"]:
        """Features of the rays on the latent grid; frame j depends on RGB frames up to 4j."""
        return self.rays(ego_rays.to(TRAINABLE_DTYPE))

    def forward(self, posed: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h2 w2"]:
        """Embedded tokens of latents (the first channels) and ray features (the rest).

        At the start it is Wan's own embedding of the latents, bit for bit.
        """
        split = self.latents.in_channels
        hidden = self.latents(posed[:, :split])
        rays = posed[:, split:].to(TRAINABLE_DTYPE)
        return self.join(hidden.to(TRAINABLE_DTYPE), rays).to(hidden.dtype)


class Concatenated(nn.Module):
    """Tokens of the rays beside those of the latents, projected back to the width of these.

    The projection starts as [I; 0].
    """

    def __init__(self, features: int, token_width: int, width: int):
        super().__init__()
        self.tokens = nn.Conv3d(features, token_width, PATCH_3D, PATCH_3D)
        self.project = nn.Linear(width + token_width, width)
        with torch.no_grad():
            self.project.weight.copy_(torch.eye(*self.project.weight.shape))
            self.project.bias.zero_()

    def forward(
        self, hidden: Float[Tensor, "b d t h2 w2"], rays: Float[Tensor, "b p t h w"]
    ) -> Float[Tensor, "b d t h2 w2"]:
        """The projected tokens."""
        joined = torch.cat([hidden, self.tokens(rays)], dim=1)
        projected = self.project(rearrange(joined, "b d t h w -> b t h w d"))
        return rearrange(projected, "b t h w d -> b d t h w")


class Added(nn.Module):
    """Tokens of the rays added to those of the latents.

    `then` refines the rays' tokens, and must leave zeros as they are at the start: so does the
    sum, as the tokens start as zero.
    """

    def __init__(self, features: int, width: int, then: nn.Module | None = None):
        super().__init__()
        self.tokens = zeroed(nn.Conv3d(features, width, PATCH_3D, PATCH_3D))
        self.then = then or nn.Identity()

    def forward(
        self, hidden: Float[Tensor, "b d t h2 w2"], rays: Float[Tensor, "b p t h w"]
    ) -> Float[Tensor, "b d t h2 w2"]:
        """The summed tokens."""
        return hidden + self.then(self.tokens(rays))


def zeroed(layer: nn.Conv3d) -> nn.Conv3d:
    """The layer with weight and bias zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
