"""Lenses: what every lens can do, the pinhole, turned cameras, and the registry of kinds.

Pixels are (x, y) = (column, row); the centre of the first pixel is at (0.5, 0.5).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from exo2ego.geometry.camera import CameraError
from exo2ego.geometry.fisheye624 import Fisheye624
from exo2ego.geometry.kannala_brandt import KannalaBrandt
from exo2ego.geometry.resize import squashed

ARIA_CALIBRATED_HW = (2880, 2880)
"""Sensor rows and columns that online_calibration.jsonl's camera-rgb is for."""
ARIA_CROP_PX = 32
"""Sensor pixels cut from each side before Aria halves the image to 1408 x 1408."""


@runtime_checkable
class Lens(Protocol):
    """Where directions of a camera's frame fall on its image, and back."""

    @property
    def hw(self) -> tuple[int, int]:
        """Rows and columns of the image."""
        ...

    @property
    def params(self) -> tuple[float, ...]:
        """The lens's numbers, in the order that `make_lens` takes."""
        ...

    def project(
        self, points_cam: Float[Tensor, "*n 3"]
    ) -> tuple[Float[Tensor, "*n 2"], Bool[Tensor, "*n"]]:
        """Pixels of points, and whether the lens sees them (image borders are not asked)."""
        ...

    def unproject(
        self, pixels: Float[Tensor, "*n 2"]
    ) -> tuple[Float[Tensor, "*n 3"], Bool[Tensor, "*n"]]:
        """Unit directions of pixels, and whether the lens has them."""
        ...

    def resized(self, hw: tuple[int, int]) -> "Lens":
        """The same lens for frames squashed to `hw`."""
        ...


@dataclass(frozen=True)
class Pinhole:
    """A lens without distortion; sees the half space in front."""

    fx: float
    fy: float
    cx: float
    cy: float
    hw: tuple[int, int]

    @property
    def params(self) -> tuple[float, ...]:
        """fx, fy, cx, cy."""
        return (self.fx, self.fy, self.cx, self.cy)

    def project(
        self, points_cam: Float[Tensor, "*n 3"]
    ) -> tuple[Float[Tensor, "*n 2"], Bool[Tensor, "*n"]]:
        """Pixels of points, and whether they are in front (image borders are not asked)."""
        x, y, z = points_cam.unbind(dim=-1)
        depth = torch.where(z > 0, z, 1)
        pixels = [self.fx * (x / depth) + self.cx, self.fy * (y / depth) + self.cy]
        return torch.stack(pixels, dim=-1), z > 0

    def unproject(
        self, pixels: Float[Tensor, "*n 2"]
    ) -> tuple[Float[Tensor, "*n 3"], Bool[Tensor, "*n"]]:
        """Unit directions of pixels; every pixel has one."""
        # a GPU divides by a number by multiplying with its inverse: so does this, for equal bits
        x = (pixels[..., 0] - self.cx) * (1 / self.fx)
        y = (pixels[..., 1] - self.cy) * (1 / self.fy)
        length = (x * x + y * y + 1).sqrt()
        directions = torch.stack([x / length, y / length, 1 / length], dim=-1)
        return directions, torch.ones_like(x, dtype=torch.bool)

    def resized(self, hw: tuple[int, int]) -> "Pinhole":
        """The same lens for frames squashed to `hw`."""
        return squashed(self, hw)


@dataclass(frozen=True)
class Turned:
    """The lens of `lens`'s image rotated clockwise by quarter turns, its camera axes turned along.

    Aria's sensor lies on its side: one turn makes it upright, and its pose becomes
    upright_from_world = A @ raw_from_world with A = [[0, -1, 0], [1, 0, 0], [0, 0, 1]].
    """

    lens: Lens
    quarter_turns_cw: int

    @property
    def hw(self) -> tuple[int, int]:
        """Rows and columns of the turned image."""
        rows, columns = self.lens.hw
        return (columns, rows) if self.quarter_turns_cw % 2 else (rows, columns)

    @property
    def params(self) -> tuple[float, ...]:
        """The numbers of the lens that is turned."""
        return self.lens.params

    def project(
        self, points_cam: Float[Tensor, "*n 3"]
    ) -> tuple[Float[Tensor, "*n 2"], Bool[Tensor, "*n"]]:
        """Pixels of points in the turned frame, and whether the lens sees them."""
        x, y, z = points_cam.unbind(dim=-1)
        x, y = _turn(x, y, -self.quarter_turns_cw)
        pixels, valid = self.lens.project(torch.stack([x, y, z], dim=-1))
        return self._about_middle(pixels, self.lens.hw, self.hw, self.quarter_turns_cw), valid

    def unproject(
        self, pixels: Float[Tensor, "*n 2"]
    ) -> tuple[Float[Tensor, "*n 3"], Bool[Tensor, "*n"]]:
        """Unit directions of pixels in the turned frame, and whether the lens has them."""
        pixels = self._about_middle(pixels, self.hw, self.lens.hw, -self.quarter_turns_cw)
        directions, valid = self.lens.unproject(pixels)
        x, y, z = directions.unbind(dim=-1)
        return torch.stack([*_turn(x, y, self.quarter_turns_cw), z], dim=-1), valid

    def resized(self, hw: tuple[int, int]) -> "Turned":
        """The same turned lens for turned frames squashed to `hw`."""
        rows, columns = hw
        inner = (columns, rows) if self.quarter_turns_cw % 2 else (rows, columns)
        return replace(self, lens=self.lens.resized(inner))

    @staticmethod
    def _about_middle(
        pixels: Float[Tensor, "*n 2"], hw: tuple[int, int], turned_hw: tuple[int, int], turns: int
    ) -> Float[Tensor, "*n 2"]:
        """Pixels of an image of size `hw` where a turn about its middle puts them."""
        x, y = _turn(pixels[..., 0] - hw[1] / 2, pixels[..., 1] - hw[0] / 2, turns)
        return torch.stack([x + turned_hw[1] / 2, y + turned_hw[0] / 2], dim=-1)


def _turn(
    x: Float[Tensor, "*n"], y: Float[Tensor, "*n"], quarter_turns_cw: int
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """x right and y down, after clockwise quarter turns: signs and places only, so exact."""
    return ((x, y), (-y, x), (-x, -y), (y, -x))[quarter_turns_cw % 4]


LENSES: dict[str, type[Pinhole] | type[KannalaBrandt] | type[Fisheye624]] = {
    "pinhole": Pinhole,
    "kannala_brandt": KannalaBrandt,
    "fisheye624": Fisheye624,
}


def make_lens(
    kind: str, params: Sequence[float], hw: tuple[int, int], quarter_turns_cw: int = 0
) -> Lens:
    """The lens of a kind, its numbers in the order of its `params`, and its image's size.

    `hw` and `params` are those of the image before turning. Raises CameraError if the kind is
    unknown, the numbers are too few, too many or not finite, or a focal length is not positive.
    """
    if kind not in LENSES:
        raise CameraError(f"lens kind {kind!r} is unknown; there are {', '.join(LENSES)}")
    count = len(fields(LENSES[kind])) - 1  # all but hw
    if len(params) != count:
        raise CameraError(f"{kind}: {len(params)} parameters, but it has {count}")
    if not all(math.isfinite(value) for value in params):
        raise CameraError(f"{kind}: a parameter is not finite in {tuple(params)}")
    if params[0] <= 0 or params[1] <= 0 or min(hw) <= 0:
        raise CameraError(
            f"{kind}: focal lengths {params[0]}, {params[1]} and sides {hw} must be positive"
        )
    lens = LENSES[kind](*(float(value) for value in params), hw=hw)
    turns = quarter_turns_cw % 4
    return Turned(lens, turns) if turns else lens


def virtual_pinhole(hw: tuple[int, int], focal_per_side: float) -> Pinhole:
    """The undistorted lens with its centre in the middle and `focal_per_side` x side as focal.

    Ego-Exo4D's virtual ego camera has 150 / 512; at 256 x 256 that is f = 75, c = 128.
    """
    rows, columns = hw
    return Pinhole(focal_per_side * columns, focal_per_side * rows, columns / 2, rows / 2, hw=hw)


def fisheye624_2880_to_1408(lens: Fisheye624) -> Fisheye624:
    """The lens of Aria's 1408 x 1408 video, of the one calibrated for its 2880 x 2880 sensor.

    Raises CameraError if `lens` is for another size.
    """
    if lens.hw != ARIA_CALIBRATED_HW:
        raise CameraError(f"this lens is for {lens.hw}, not for Aria's sensor {ARIA_CALIBRATED_HW}")
    side = (ARIA_CALIBRATED_HW[0] - 2 * ARIA_CROP_PX) // 2
    return replace(
        lens,
        fx=lens.fx / 2,
        fy=lens.fy / 2,
        cx=(lens.cx - ARIA_CROP_PX) / 2,
        cy=(lens.cy - ARIA_CROP_PX) / 2,
        hw=(side, side),
    )


def pixel_centres(hw: tuple[int, int]) -> Float64[Tensor, "H W 2"]:
    """(x, y) of every pixel's centre: the first is (0.5, 0.5)."""
    rows = torch.arange(hw[0], dtype=torch.float64) + 0.5
    columns = torch.arange(hw[1], dtype=torch.float64) + 0.5
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1)
