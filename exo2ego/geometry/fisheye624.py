"""The FisheyeRadTanThinPrism lens ("Fisheye624") of Project Aria's glasses."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from exo2ego.geometry.kannala_brandt import direction_of_image_point
from exo2ego.geometry.radial import angle_limit, radius_of_angle
from exo2ego.geometry.resize import squashed

NEWTON_STEPS = 10
"""The tangential part is a few thousandths of the image: four steps reach float64, ten are safe."""


@dataclass(frozen=True)
class Fisheye624:
    """Six radial, two tangential and four thin-prism coefficients; sees the half space in front.

    Aria has one focal length; two are kept so that squashed frames keep a lens of the same kind.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    k0: float
    k1: float
    k2: float
    k3: float
    k4: float
    k5: float
    p0: float
    p1: float
    s0: float
    s1: float
    s2: float
    s3: float
    hw: tuple[int, int]

    @property
    def params(self) -> tuple[float, ...]:
        """fx, fy, cx, cy, k0 to k5, p0, p1, s0 to s3: Aria's order, its focal length twice."""
        centre = (self.fx, self.fy, self.cx, self.cy)
        return (*centre, *self._bend, self.p0, self.p1, self.s0, self.s1, self.s2, self.s3)

    @property
    def _bend(self) -> tuple[float, ...]:
        return (self.k0, self.k1, self.k2, self.k3, self.k4, self.k5)

    @cached_property
    def angle_limit(self) -> float:
        """Largest angle from the axis, in radians, that has an image point of its own."""
        return angle_limit(self._bend, math.pi / 2)

    def project(
        self, points_cam: Float[Tensor, "*n 3"]
    ) -> tuple[Float[Tensor, "*n 2"], Bool[Tensor, "*n"]]:
        """Pixels of points, and whether the lens sees them (image borders are not asked)."""
        x, y, z = points_cam.unbind(dim=-1)
        across = (x * x + y * y).sqrt()
        angle = torch.atan2(across, z)
        stretch = radius_of_angle(self._bend, angle.clamp(max=self.angle_limit))
        stretch = stretch / torch.where(across > 0, across, 1)
        u, v = self._decentred(stretch * x, stretch * y)
        pixels = torch.stack([self.fx * u + self.cx, self.fy * v + self.cy], dim=-1)
        return pixels, (angle <= self.angle_limit) & (z > 0)

    def unproject(
        self, pixels: Float[Tensor, "*n 2"]
    ) -> tuple[Float[Tensor, "*n 3"], Bool[Tensor, "*n"]]:
        """Unit directions of pixels, and whether the lens has them; else the rim's direction."""
        # a GPU divides by a number by multiplying with its inverse: so does this, for equal bits
        u = (pixels[..., 0] - self.cx) * (1 / self.fx)
        v = (pixels[..., 1] - self.cy) * (1 / self.fy)
        x, y, found = self._centred(u, v)
        directions, within = direction_of_image_point(x, y, self._bend, self.angle_limit)
        return directions, found & within & (directions[..., 2] > 0)

    def resized(self, hw: tuple[int, int]) -> "Fisheye624":
        """The same lens for frames squashed to `hw`."""
        return squashed(self, hw)

    def _decentred(
        self, x: Float[Tensor, "*n"], y: Float[Tensor, "*n"]
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        square = x * x + y * y
        tilt = 1 + 2 * (self.p0 * x + self.p1 * y)
        u = x * tilt + square * (self.p0 + self.s0 + self.s1 * square)
        v = y * tilt + square * (self.p1 + self.s2 + self.s3 * square)
        return u, v

    def _centred(
        self, u: Float[Tensor, "*n"], v: Float[Tensor, "*n"]
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"], Bool[Tensor, "*n"]]:
        """The radial image point of a decentred one, by Newton's method, and whether it is one."""
        x, y = u, v
        for _ in range(NEWTON_STEPS):
            (xx, xy, yx, yy), (miss_u, miss_v) = self._slopes(x, y), self._decentred(x, y)
            miss_u, miss_v, area = miss_u - u, miss_v - v, xx * yy - xy * yx
            x = x - (yy * miss_u - xy * miss_v) / area
            y = y - (xx * miss_v - yx * miss_u) / area
        xx, xy, yx, yy = self._slopes(x, y)
        u_again, v_again = self._decentred(x, y)
        close = 1e3 * torch.finfo(u.dtype).eps * (1 + u.abs() + v.abs())
        found = ((u_again - u).abs() + (v_again - v).abs() <= close) & (xx * yy > xy * yx)
        return torch.where(found, x, u), torch.where(found, y, v), found

    def _slopes(
        self, x: Float[Tensor, "*n"], y: Float[Tensor, "*n"]
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"], Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """du/dx, du/dy, dv/dx, dv/dy of `_decentred`."""
        square = x * x + y * y
        tilt = 1 + 2 * (self.p0 * x + self.p1 * y)
        along_u = 2 * (self.p0 + self.s0 + 2 * self.s1 * square)
        along_v = 2 * (self.p1 + self.s2 + 2 * self.s3 * square)
        return (
            tilt + 2 * self.p0 * x + along_u * x,
            2 * self.p1 * x + along_u * y,
            2 * self.p0 * y + along_v * x,
            tilt + 2 * self.p1 * y + along_v * y,
        )
