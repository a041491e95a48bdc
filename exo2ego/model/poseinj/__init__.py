"""PoseInj (paper 3.4.2): the registry of its forms. Rays of the ego camera before block 0."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from exo2ego.model.poseinj.add import AddSettings, add
from exo2ego.model.poseinj.concat import ConcatSettings, concat
from exo2ego.model.poseinj.embedding import PoseInj
from exo2ego.model.poseinj.fun_fold import FunFoldSettings, fun_fold
from exo2ego.model.poseinj.per_pixel import PerPixelSettings, per_pixel
from exo2ego.model.seeding import initial_weights_from

PoseInjSettings = Annotated[
    ConcatSettings | AddSettings | PerPixelSettings | FunFoldSettings, Field(discriminator="name")
]
"""Settings of any form; `name` says which."""
FORMS: dict[type, Callable[[Any, int], tuple[nn.Module, nn.Module]]] = {
    ConcatSettings: concat,
    AddSettings: add,
    PerPixelSettings: per_pixel,
    FunFoldSettings: fun_fold,
}
"""Makes the encoder of rays and the join."""


def build_pose_inj(
    patch_embedding: nn.Conv3d, settings: PoseInjSettings, generator: torch.Generator
) -> PoseInj:
    """The form that the settings name, on a patch embedding; new weights from `generator`."""
    with initial_weights_from(generator):
        rays, join = FORMS[type(settings)](settings, patch_embedding.out_channels)
    return PoseInj(patch_embedding, rays, join, reads=settings.rays)
