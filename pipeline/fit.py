"""How a video's frames become a clip's: through which lens, and how their shape meets hw."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import UInt8
from torch import Tensor

from exo2ego.geometry.camera import CameraError
from exo2ego.geometry.clip_rays import ego_lens, video_lens
from exo2ego.geometry.lenses import Lens, Pinhole
from pipeline.video import Resampler
from stores.index import CameraRow
from stores.recipe import ClipRecipe

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


class FrameMaker:
    """Frames of one camera as a clip has them: `maker(frames)`, each by itself."""

    def __init__(self, recipe: ClipRecipe, camera: CameraRow, *, is_ego: bool):
        lens = video_lens(camera)
        self.source_hw, self._hw = lens.hw, recipe.hw
        self._part_hw, self._resample = lens.hw, Resampler(lens.hw, recipe.hw)
        if is_ego and recipe.ego_lens == "pinhole":
            self._resample = Resampler(lens, ego_lens(recipe, camera))
        elif not is_ego:
            self._fit_exo(recipe, camera, lens)

    def __call__(self, frames: UInt8[Tensor, "n H W 3"]) -> UInt8[Tensor, "n H2 W2 3"]:
        """The frames, on the device they came on."""
        if tuple(frames.shape[1:3]) != self.source_hw:
            raise ValueError(f"frames of {tuple(frames.shape[1:3])}, made for {self.source_hw}")
        shown = self._resample(_middle(frames, self._part_hw))
        if tuple(shown.shape[1:3]) == self._hw:
            return shown
        black = torch.zeros(len(frames), *self._hw, 3, dtype=torch.uint8, device=frames.device)
        _middle(black, (shown.shape[1], shown.shape[2]))[:] = shown
        return black

    def _fit_exo(self, recipe: ClipRecipe, camera: CameraRow, lens: Lens) -> None:
        fit = FITS[recipe.exo_fit](lens.hw, recipe.hw)
        if recipe.exo_lens == "pinhole" and camera.lens != "pinhole":
            straight = undistorted_pinhole(lens, UNDISTORT_BALANCE)
            self._resample = Resampler(lens, _cut(straight, fit.part_hw).resized(fit.shown_hw))
        else:
            self._part_hw = fit.part_hw
            self._resample = Resampler(fit.part_hw, fit.shown_hw)


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


def _cut(lens: Pinhole, hw: tuple[int, int]) -> Pinhole:
    """The lens for the middle of its image."""
    top, left = (lens.hw[0] - hw[0]) // 2, (lens.hw[1] - hw[1]) // 2
    return replace(lens, cx=lens.cx - left, cy=lens.cy - top, hw=hw)


def _middle(frames: UInt8[Tensor, "n H W 3"], hw: tuple[int, int]) -> UInt8[Tensor, "n H2 W2 3"]:
    """The middle rows and columns of frames; a view, not a copy."""
    top, left = (frames.shape[1] - hw[0]) // 2, (frames.shape[2] - hw[1]) // 2
    return frames[:, top : top + hw[0], left : left + hw[1]]
