"""How the shape of an exo video's frames meets a clip's, and the pinhole that straightens them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from exo2ego.geometry.camera import CameraError
from exo2ego.geometry.lenses import Lens, Pinhole

UNDISTORT_BALANCE = 0.8
"""OpenCV's `balance` when Ego-Exo4D's authors undistorted their exo images."""


@dataclass(frozen=True)
class Fit:
    """The part of the source that is shown, and the size that it is shown at, in the middle."""

    part_hw: tuple[int, int]
    shown_hw: tuple[int, int]


def squash(source_hw: tuple[int, int], hw: tuple[int, int]) -> Fit:
    """All of the source on all of the target: pixels do not stay square."""
    return Fit(source_hw, hw)


def crop(source_hw: tuple[int, int], hw: tuple[int, int]) -> Fit:
    """The source's middle on all of the target: pixels stay square, edges are lost."""
    scale = min(source_hw[0] / hw[0], source_hw[1] / hw[1])
    return Fit((round(hw[0] * scale), round(hw[1] * scale)), hw)


def pad(source_hw: tuple[int, int], hw: tuple[int, int]) -> Fit:
    """All of the source on the target's middle: pixels stay square, the rest is black."""
    scale = max(source_hw[0] / hw[0], source_hw[1] / hw[1])
    return Fit(source_hw, (round(source_hw[0] / scale), round(source_hw[1] / scale)))


FITS: dict[str, Callable[[tuple[int, int], tuple[int, int]], Fit]] = {
    "squash": squash,
    "crop": crop,
    "pad": pad,
}
"""By the recipe's `exo_fit`."""


def middle_corner(hw: tuple[int, int], middle_hw: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the first pixel of an image's middle."""
    return (hw[0] - middle_hw[0]) // 2, (hw[1] - middle_hw[1]) // 2


def cut_to_middle(lens: Pinhole, hw: tuple[int, int]) -> Pinhole:
    """The lens for the middle of its image."""
    top, left = middle_corner(lens.hw, hw)
    return replace(lens, cx=lens.cx - left, cy=lens.cy - top, hw=hw)


def undistorted_pinhole(lens: Lens, balance: float) -> Pinhole:
    """The pinhole of OpenCV's fisheye.estimateNewCameraMatrixForUndistortRectify, for R = 1.

    The middles of the image's four edges are undistorted; each gives the focal length that puts
    it on the edge again; `balance` weighs the smallest of the four against the largest."""
    rows, columns = lens.hw
    edges = torch.tensor(
        [[columns / 2, 0.0], [columns, rows / 2], [columns / 2, rows], [0.0, rows / 2]],
        dtype=torch.float64,
    )
    # OpenCV counts pixels from their centres, this lens from their corners.
    directions, seen = lens.unproject(edges + 0.5)
    if not seen.all() or not (directions[:, 2] > 0).all():
        raise CameraError("an edge of the image is outside what a pinhole can show")
    points = directions[:, :2] / directions[:, 2:]
    ratio = _focal_ratio(lens)
    points = points * torch.tensor([1.0, ratio], dtype=torch.float64)
    middle, least, most = points.mean(0), points.amin(0), points.amax(0)
    half = torch.tensor([columns, rows * ratio], dtype=torch.float64) / 2
    focals = torch.cat([half / (middle - least), half / (most - middle)])
    focal_px = (balance * focals.min() + (1 - balance) * focals.max()).item()
    cx, cy = (half - middle * focal_px).tolist()
    return Pinhole(focal_px, focal_px / ratio, cx + 0.5, cy / ratio + 0.5, hw=lens.hw)


def _focal_ratio(lens: Lens) -> float:
    """fx / fy of the lens as its image lies, turned or not."""
    centre = torch.tensor([[0.0, 0.0, 1.0], [1e-6, 0.0, 1.0], [0.0, 1e-6, 1.0]])
    pixels, _ = lens.project(centre.to(torch.float64))
    across, down = (pixels[1:] - pixels[0]).norm(dim=-1).tolist()
    return across / down
