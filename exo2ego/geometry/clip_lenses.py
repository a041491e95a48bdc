"""What the frames of a clip's cameras are seen through, as the recipe makes them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from exo2ego.geometry.fit import (
    FITS,
    UNDISTORT_BALANCE,
    Fit,
    cut_to_middle,
    middle_corner,
    undistorted_pinhole,
)
from exo2ego.geometry.lenses import Lens, Pinhole, make_lens, virtual_pinhole
from stores.index import CameraRow
from stores.recipe import ClipRecipe


def video_lens(camera: CameraRow) -> Lens:
    """The lens of the camera's frames as the video has them."""
    return make_lens(camera.lens, camera.params, camera.hw, camera.quarter_turns_cw)


def ego_lens(recipe: ClipRecipe, ego: CameraRow) -> Lens:
    """The lens that a clip's ego frames are seen through, for frames of the recipe's size."""
    if recipe.ego_lens == "pinhole":
        return virtual_pinhole(recipe.hw, recipe.ego_focal_per_side)
    return video_lens(ego).resized(recipe.hw)


@dataclass(frozen=True)
class ExoView:
    """How a clip's frames of one exo camera come from its video's."""

    video: Lens
    """Of the video's frames."""
    straight: Pinhole | None
    """Of the video's size, if the frames are undistorted to it first."""
    fit: Fit
    hw: tuple[int, int]

    @property
    def shown_lens(self) -> Pinhole | None:
        """The pinhole of what is shown, without the bars around it; None if none is drawn."""
        if self.straight is None:
            return None
        return cut_to_middle(self.straight, self.fit.part_hw).resized(self.fit.shown_hw)

    def project(
        self, points_cam: Float[Tensor, "*n 3"]
    ) -> tuple[Float[Tensor, "*n 2"], Bool[Tensor, "*n"]]:
        """Pixels (x, y) of points in the clip's frames, and whether these show them."""
        pixels, seen = self.video.project(points_cam)
        seen = seen & _inside(pixels, self.video.hw)
        if self.straight is not None:
            pixels, in_front = self.straight.project(points_cam)
            seen = seen & in_front
        return self._placed(pixels, seen)

    def _placed(
        self, pixels: Float[Tensor, "*n 2"], seen: Bool[Tensor, "*n"]
    ) -> tuple[Float[Tensor, "*n 2"], Bool[Tensor, "*n"]]:
        """Where pixels of a frame of the video's size lie in the clip's, and if they are shown."""
        part, shown = self.fit.part_hw, self.fit.shown_hw
        part_xy = pixels - _xy(middle_corner(self.video.hw, part), pixels)
        placed = part_xy * (_xy(shown, pixels) / _xy(part, pixels))
        placed = placed + _xy(middle_corner(self.hw, shown), pixels)
        return placed, seen & _inside(part_xy, part)


def exo_view(recipe: ClipRecipe, exo: CameraRow) -> ExoView:
    """The view of an exo camera by the recipe's `exo_lens` and `exo_fit`."""
    lens = video_lens(exo)
    straight = None
    if recipe.exo_lens == "pinhole" and exo.lens != "pinhole":
        straight = undistorted_pinhole(lens, UNDISTORT_BALANCE)
    return ExoView(lens, straight, FITS[recipe.exo_fit](lens.hw, recipe.hw), recipe.hw)


def _inside(pixels: Float[Tensor, "*n 2"], hw: tuple[int, int]) -> Bool[Tensor, "*n"]:
    """Whether pixels lie in an image, its border included."""
    return ((pixels >= 0) & (pixels <= _xy(hw, pixels))).all(dim=-1)


def _xy(rows_columns: tuple[int, int], like: Tensor) -> Float[Tensor, "2"]:
    rows, columns = rows_columns
    return torch.tensor([columns, rows], dtype=like.dtype, device=like.device)
