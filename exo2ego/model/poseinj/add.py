"""PoseInj's ray features added to the state before block 0: no wider state, no projection."""

from typing import Literal

from pydantic import Field
from torch import nn

from exo2ego.model.poseinj.embedding import Added
from exo2ego.model.poseinj.rays_read import ReadsRays
from exo2ego.model.rays import RayEncoder


class AddSettings(ReadsRays):
    """Pose tokens of the hidden state's own width, added to it; they start as zero.

    Choice: an alternative to the paper's concatenation, as Wan's own camera adapters do it.
    """

    name: Literal["add"] = "add"
    latent_width: int = Field(
        default=128, gt=0, description="channels on the latent grid; not given"
    )


def add(settings: AddSettings, width: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and join for hidden states of that width."""
    return RayEncoder(settings.latent_width), Added(settings.latent_width, width)
