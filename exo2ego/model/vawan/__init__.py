"""VAWAN (paper 4.1), the baseline: here the registry of its forms of pose conditioning."""

from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from pydantic import BaseModel, ConfigDict, Field

from exo2ego.model.vawan.ac3d import Ac3d, Ac3dSettings
from exo2ego.model.vawan.time_and_pose import TimeAndPose, TimeAndPoseSettings


class NoPoseSettings(BaseModel):
    """No pose is given: what is left of the baseline is its exo channels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reads: ClassVar[str | None] = None
    name: Literal["none"] = "none"


PoseSettings = Annotated[
    NoPoseSettings | TimeAndPoseSettings | Ac3dSettings, Field(discriminator="name")
]
"""Settings of any form; `name` says which, `reads` which array it takes."""
PoseForm = TimeAndPose | Ac3d
"""Any form: what Wan's blocks are told of the poses, in place of text."""
FORMS: dict[type[BaseModel], Callable[..., PoseForm]] = {
    TimeAndPoseSettings: TimeAndPose,
    Ac3dSettings: Ac3d,
}


def build_pose(
    wan: WanTransformer3DModel, settings: PoseSettings, generator: torch.Generator
) -> PoseForm | None:
    """The form that the settings name, built into Wan; None if there is none.

    Wan's output stays what it was, bit for bit in float32. New weights come from `generator`.
    """
    form = FORMS.get(type(settings))
    return None if form is None else form(wan, settings, generator)
