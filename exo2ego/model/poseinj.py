"""PoseInj (paper 3.4.2): rays of the ego camera, concatenated to the state before block 0."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from exo2ego.model.rays import RayEncoder
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.wan import TRAINABLE_DTYPE
from stores.schema import PATCH


class PoseInjSettings(BaseModel):
    """Pose features concatenated to the hidden state and projected back to its width.

    Choice: kernel sizes and widths are not in the paper, nor how a pretrained block of fixed
    width takes a wider state; here a projection that starts as [I; 0].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["concat"] = "concat"
    latent_width: int = Field(
        default=128, gt=0, description="channels on the latent grid; not given"
    )
    token_width: int = Field(
        default=256, gt=0, description="channels concatenated per token; not given"
    )


class PoseInj(nn.Module):
    """Takes the place of Wan's patch embedding, and gives it the pose as extra input channels.

    The rays' features travel in the same tensor as the latents, so nothing is remembered
    between calls and checkpointing, compilation and context parallelism need not know of them.
    """

    def __init__(
        self, patch_embedding: nn.Conv3d, settings: PoseInjSettings, generator: torch.Generator
    ):
        super().__init__()
        width, patch = patch_embedding.out_channels, (1, PATCH, PATCH)
        self.latents = patch_embedding
        with initial_weights_from(generator):
            self.rays = RayEncoder(settings.latent_width)
            self.tokens = nn.Conv3d(settings.latent_width, settings.token_width, patch, patch)
            self.project = nn.Linear(width + settings.token_width, width)
        with torch.no_grad():
            self.project.weight.copy_(torch.eye(*self.project.weight.shape))
            self.project.bias.zero_()
        for added in (self.rays, self.tokens, self.project):
            added.to(patch_embedding.weight.device, TRAINABLE_DTYPE)

    def encode(self, ego_rays: Float[Tensor, "b T 6 H W"]) -> Float[Tensor, "b p t h w"]:
        """Features of the rays on the latent grid; frame j depends on RGB frames up to 4j."""
        return self.rays(ego_rays)

    def forward(self, posed: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h2 w2"]:
        """Embedded tokens of latents (the first channels) and ray features (the rest).

        At the start it is Wan's own embedding of the latents, bit for bit.
        """
        split = self.latents.in_channels
        hidden = self.latents(posed[:, :split])
        pose = self.tokens(posed[:, split:].to(TRAINABLE_DTYPE))
        joined = torch.cat([hidden.to(TRAINABLE_DTYPE), pose], dim=1)
        projected = self.project(rearrange(joined, "b d t h w -> b t h w d"))
        return rearrange(projected, "b t h w d -> b d t h w").to(hidden.dtype)
