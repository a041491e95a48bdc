"""PoseInj as the paper has it: ray features concatenated to the state before block 0."""

from typing import Literal

from pydantic import Field
from torch import nn

from exo2ego.model.poseinj.embedding import Concatenated
from exo2ego.model.poseinj.rays_read import ReadsRays
from exo2ego.model.rays import RayEncoder


class ConcatSettings(ReadsRays):
    """Pose features concatenated to the hidden state and projected back to its width.

    Choice: kernel sizes and widths are not in the paper, nor how a pretrained block of fixed
    width takes a wider state; here a projection that starts as [I; 0].
    """

    name: Literal["concat"] = "concat"
    latent_width: int = Field(
        default=128, gt=0, description="channels on the latent grid; not given"
    )
    token_width: int = Field(
        default=256, gt=0, description="channels concatenated per token; not given"
    )


def concat(settings: ConcatSettings, width: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and join for hidden states of that width."""
    encoder = RayEncoder(settings.latent_width)
    return encoder, Concatenated(settings.latent_width, settings.token_width, width)
