"""A new path of the ego camera for the same exo videos: its file, and the clip that it makes.

    {"format": 1, "relative_to": "first", "poses": [[[1, 0, 0, 0.1], [0, 1, 0, 0], ...], ...]}

Each pose is a 4x4 matrix, row by row, in metres, that takes points of the ego camera (x right, y
down, z forward) to the frame of `relative_to`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import orjson
import torch
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from exo2ego.geometry.camera import CameraError, check_rigid, compose
from stores.errors import UserFault
from stores.index import ClipRow

_Row = Annotated[tuple[float, ...], Field(min_length=4, max_length=4)]
_Matrix = Annotated[tuple[_Row, ...], Field(min_length=4, max_length=4)]


class CameraPathFault(UserFault, ValueError):
    """A camera path that cannot be read, or that does not fit the clips."""


class CameraPath(BaseModel):
    """Where the ego camera is at each frame of a clip; one pose stands for all frames."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = Field(default=1, description="version of this file")
    relative_to: Literal["first", "reference", "world"] = Field(
        description="first: the clip's own first ego camera; reference: its reference exo camera; "
        "world: that of the take's calibration"
    )
    poses: tuple[_Matrix, ...] = Field(
        min_length=1, description="4x4, row by row, metres: points of the ego camera to that frame"
    )


def read_camera_path(path: Path, frames: int) -> CameraPath:
    """The path in a JSON file, for clips of so many frames.

    Raises CameraPathFault if it is not one, if a pose is not rigid, or for a number of poses that
    is neither 1 nor `frames`.
    """
    try:
        found = CameraPath.model_validate(orjson.loads(path.read_bytes()))
        check_rigid(_poses(found), "poses")
    except (OSError, orjson.JSONDecodeError, ValidationError, CameraError) as cause:
        raise _no_path(path, f"{type(cause).__name__}: {cause}") from cause
    if len(found.poses) not in (1, frames):
        raise _no_path(path, f"{len(found.poses)} poses, where a clip has {frames} frames")
    return found


def clip_on_path(clip: ClipRow, path: CameraPath | None) -> ClipRow:
    """The clip with its ego camera on the path, and without its ego video; None changes nothing."""
    if path is None:
        return clip
    frame = {
        "first": clip.ego.world_from_cam[0],
        "reference": clip.present[0].world_from_cam[0],
        "world": np.eye(4),
    }[path.relative_to]
    world_from_ego = compose(torch.from_numpy(frame.copy()), _poses(path))
    poses = np.broadcast_to(world_from_ego.numpy(), (len(clip.frames), 4, 4)).copy()
    return replace(clip, ego=replace(clip.ego, video="", world_from_cam=poses))


def _poses(path: CameraPath) -> Float64[Tensor, "n 4 4"]:
    return torch.tensor(path.poses, dtype=torch.float64)


def _no_path(path: Path, got: str) -> CameraPathFault:
    return CameraPathFault(
        "This is not a path of the ego camera.",
        where=path,
        expected='{"format": 1, "relative_to": "first" | "reference" | "world", "poses": [...]} '
        "with one rigid 4x4 pose, or one for each frame of a clip",
        got=got,
        fix="See docs/evaluation.md for the format and an example.",
    )
