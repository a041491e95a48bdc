"""The Kannala-Brandt fisheye lens, as OpenCV's cv2.fisheye and Ego-Exo4D's GoPros have it."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from exo2ego.geometry.radial import angle_limit, angle_of_radius, radius_of_angle, sine_cosine
from exo2ego.geometry.resize import squashed


@dataclass(frozen=True)
class KannalaBrandt:
    """Image radius = angle (1 + k0 angle² + ... + k3 angle⁸) focals; sees beyond 90 degrees."""

    fx: float
    fy: float
    cx: float
    cy: float
    k0: float
    k1: float
    k2: float
    k3: float
    hw: tuple[int, int]

    @property
    def params(self) -> tuple[float, ...]:
        """fx, fy, cx, cy, k0, k1, k2, k3: the order of gopro_calibs.csv."""
        return (self.fx, self.fy, self.cx, self.cy, *self._bend)

    @property
    def _bend(self) -> tuple[float, ...]:
        return (self.k0, self.k1, self.k2, self.k3)

    @cached_property
    def angle_limit(self) -> float:
        """Largest angle from the axis, in radians, that has an image point of its own."""
        return angle_limit(self._bend, math.pi)

    def project(
        self, points_cam: Float[Tensor, "*n 3"]
    ) -> tuple[Float[Tensor, "*n 2"], Bool[Tensor, "*n"]]:
        """Pixels of points, and whether the lens sees them (image borders are not asked)."""
        x, y, z = points_cam.unbind(dim=-1)
        across = (x * x + y * y).sqrt()
        angle = torch.atan2(across, z)
        valid = (angle <= self.angle_limit) & ((across > 0) | (z > 0))
        stretch = radius_of_angle(self._bend, angle.clamp(max=self.angle_limit))
        stretch = stretch / torch.where(across > 0, across, 1)
        pixels = torch.stack(
            [self.fx * (stretch * x) + self.cx, self.fy * (stretch * y) + self.cy], dim=-1
        )
        return pixels, valid

    def unproject(
        self, pixels: Float[Tensor, "*n 2"]
    ) -> tuple[Float[Tensor, "*n 3"], Bool[Tensor, "*n"]]:
        """Unit directions of pixels, and whether the lens has them; else the rim's direction."""
        # a GPU divides by a number by multiplying with its inverse: so does this, for equal bits
        x = (pixels[..., 0] - self.cx) * (1 / self.fx)
        y = (pixels[..., 1] - self.cy) * (1 / self.fy)
        return direction_of_image_point(x, y, self._bend, self.angle_limit)

    def resized(self, hw: tuple[int, int]) -> "KannalaBrandt":
        """The same lens for frames squashed to `hw`."""
        return squashed(self, hw)


def direction_of_image_point(
    x: Float[Tensor, "*n"],
    y: Float[Tensor, "*n"],
    bend: tuple[float, ...],
    limit: float,
) -> tuple[Float[Tensor, "*n 3"], Bool[Tensor, "*n"]]:
    """Unit directions of image points in focal lengths, and whether they lie within the limit."""
    radius = (x * x + y * y).sqrt()
    end = radius_of_angle(bend, torch.full((), limit, dtype=x.dtype, device=x.device))
    sine, cosine = sine_cosine(angle_of_radius(bend, radius, limit))
    across = sine / torch.where(radius > 0, radius, 1)
    return torch.stack([across * x, across * y, cosine], dim=-1), radius <= end
