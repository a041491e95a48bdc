"""How the ego picture moves when the head turns: as the ego poses say, and as the pixels show."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float64
from torch import Tensor

from exo2ego.geometry.camera import compose, invert_rigid, transform_points
from exo2ego.geometry.lenses import Lens
from pipeline.doctor.marks import lens_of
from pipeline.doctor.motion import HeadMotion, HeadPath, seen_motion
from stores.index import CameraRow

WINDOW_SHARE = 0.5
"""Side of the window in the middle of the picture, of the picture's shorter side."""
DEPTH_METRES = 1.5
"""Choice: how far what the picture shows is taken to be; only the head's shift asks for it."""
_SPOTS = 7
"""Points along each side of the window whose mean motion is expected of the picture."""


def gaze_motion(root: Path, camera: CameraRow, path: HeadPath, hw: tuple[int, int]) -> HeadMotion:
    """Expected and seen motion of the middle of the ego video, of frames of size `hw`."""
    side = int(WINDOW_SHARE * min(hw))
    middles = np.tile(np.array([hw[1], hw[0]]) / 2, (len(path.frames) - 1, 1))
    seen, change = seen_motion(root / camera.video, path.frames, middles, side)
    return HeadMotion(camera.cam_id, _expected(lens_of(camera, hw), path, side), seen, change)


def _expected(lens: Lens, path: HeadPath, side: int) -> Float64[np.ndarray, "n 2"]:
    """Mean motion of still points of the window from each frame to the next; NaN if unknown."""
    pixels = _grid(lens.hw, side)
    directions, valid = lens.unproject(pixels)
    pixels, points = pixels[valid], DEPTH_METRES * directions[valid]
    world_from_cam = torch.from_numpy(path.world_from_cam)
    after_from_before = compose(invert_rigid(world_from_cam[1:]), world_from_cam[:-1])
    moved, _ = lens.project(transform_points(after_from_before[:, None], points))
    return (moved - pixels).mean(dim=1).numpy()


def _grid(hw: tuple[int, int], side: int) -> Float64[Tensor, "n 2"]:
    """Pixels (x, y) spread over the window in the middle of the picture."""
    across = torch.linspace(-0.5, 0.5, _SPOTS, dtype=torch.float64) * side
    y, x = torch.meshgrid(across + hw[0] / 2, across + hw[1] / 2, indexing="ij")
    return rearrange([x, y], "xy rows columns -> (rows columns) xy")
