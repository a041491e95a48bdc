"""Which rays a form of PoseInj reads: what all forms' settings have in common."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ReadsRays(BaseModel):
    """Rays of every ego frame, in the frame of one camera.

    Against the first ego frame's own camera, where the head is going stands in the rays as such;
    against an exo camera it is the difference of two frames, between which the VAE's stride lies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rays: Literal["ego_rays", "ego_motion_rays"] = Field(
        default="ego_rays",
        description="in the reference exo camera's frame (3.4.2), or in the first ego frame's",
    )
