"""Bodies: boxes, rooms seen from inside, and capsules (balls are capsules of no length)."""

from dataclasses import dataclass, fields, replace
from enum import IntEnum

import numpy as np
from einops import repeat
from jaxtyping import Bool, Float64, Int64

COVER_SPHERES = 3
"""Spheres along a body's longest axis that together enclose it: what tiles are culled with."""


Metres3 = tuple[float | int, float | int, float | int]


class Shape(IntEnum):
    """What a body is, in its own frame."""

    BOX = 0
    ROOM = 1
    CAPSULE = 2


@dataclass(frozen=True)
class Bodies:
    """Some bodies at one instant, in the room's frame (metres, z up, the floor at 0)."""

    shape: Int64[np.ndarray, "n"]
    room_from_body: Float64[np.ndarray, "n 4 4"]
    size: Float64[np.ndarray, "n 3"]
    """Half sides of a box or room; radius, radius and half length (along z) of a capsule."""
    paint: Int64[np.ndarray, "n"]
    """Number of the texture; a room's six faces have that texture and the five after it."""
    per_metre: Float64[np.ndarray, "n"]
    """How often the texture repeats in a metre of the body's surface."""

    def __len__(self) -> int:
        return len(self.shape)

    def moved(
        self, room_from_body: Float64[np.ndarray, "n 4 4"], size: Float64[np.ndarray, "n 3"]
    ) -> "Bodies":
        """The same bodies elsewhere, or of other sizes."""
        return replace(self, room_from_body=room_from_body, size=size)

    def chosen(self, which: Bool[np.ndarray, "n"]) -> "Bodies":
        """The bodies marked true."""
        return Bodies(**{field.name: getattr(self, field.name)[which] for field in fields(Bodies)})

    def covers(self) -> Float64[np.ndarray, "n k 4"]:
        """Centres and radii, in the room, of spheres that enclose each body."""
        half = self.size.copy()
        half[self.shape == Shape.CAPSULE, 2] += self.size[self.shape == Shape.CAPSULE, 0]
        longest, rows = half.argmax(axis=1), np.arange(len(self))
        part = half.copy()
        part[rows, longest] /= COVER_SPHERES
        steps = np.linspace(-1.0, 1.0, COVER_SPHERES) * (1 - 1 / COVER_SPHERES)
        axis = self.room_from_body[rows, :3, longest] * half[rows, longest][:, None]
        centres = self.room_from_body[:, None, :3, 3] + axis[:, None] * steps[:, None]
        radii = repeat(np.sqrt((part**2).sum(axis=1)), "n -> n k 1", k=COVER_SPHERES)
        return np.concatenate([centres, radii], axis=2)


def join(*groups: Bodies) -> Bodies:
    """All bodies of the groups, in order."""
    columns = {
        field.name: np.concatenate([getattr(group, field.name) for group in groups])
        for field in fields(Bodies)
    }
    return Bodies(**columns)


def box(
    centre: Metres3,
    sides: Metres3,
    paint: int,
    *,
    yaw: float = 0.0,
    tilt: float = 0.0,
    per_metre: float = 1.0,
    shape: Shape = Shape.BOX,
) -> Bodies:
    """One box of full side lengths, tilted about its x axis, then turned about the vertical."""
    pose = np.eye(4)
    pose[:3, :3] = turn("z", yaw) @ turn("x", tilt)
    pose[:3, 3] = centre
    return Bodies(
        shape=np.array([int(shape)]),
        room_from_body=pose[None],
        size=np.array([sides], dtype=np.float64) / 2,
        paint=np.array([paint]),
        per_metre=np.array([float(per_metre)]),
    )


def capsule(
    start: Float64[np.ndarray, "3"],
    end: Float64[np.ndarray, "3"],
    radius: float,
    paint: int,
    per_metre: float = 4.0,
) -> Bodies:
    """One capsule around the segment from start to end."""
    pose, size = capsule_poses(start, end, np.array(radius))
    return Bodies(
        shape=np.array([int(Shape.CAPSULE)]),
        room_from_body=pose[None],
        size=size[None],
        paint=np.array([paint]),
        per_metre=np.array([float(per_metre)]),
    )


def ball(
    centre: Float64[np.ndarray, "3"], radius: float, paint: int, per_metre: float = 4.0
) -> Bodies:
    """One ball."""
    return capsule(centre, centre, radius, paint, per_metre)


def capsule_poses(
    start: Float64[np.ndarray, "*n 3"],
    end: Float64[np.ndarray, "*n 3"],
    radius: Float64[np.ndarray, "*n"],
) -> tuple[Float64[np.ndarray, "*n 4 4"], Float64[np.ndarray, "*n 3"]]:
    """Poses (z along the segment) and sizes of capsules around segments; no length gives balls."""
    along = end - start
    length = np.sqrt((along**2).sum(axis=-1))
    upright = np.broadcast_to(np.array([0.0, 0.0, 1.0]), along.shape)
    z = np.where(length[..., None] > 1e-9, along / np.maximum(length, 1e-9)[..., None], upright)
    # Any x across the segment does; this one turns smoothly unless the segment points along +-x.
    x = np.stack([1 - z[..., 0] ** 2, -z[..., 0] * z[..., 1], -z[..., 0] * z[..., 2]], axis=-1)
    near = (x**2).sum(axis=-1) < 1e-6
    x = np.where(near[..., None], np.array([0.0, 1.0, 0.0]), x)
    x = x - (x * z).sum(axis=-1, keepdims=True) * z
    x = x / np.sqrt((x**2).sum(axis=-1, keepdims=True))
    pose = np.zeros((*length.shape, 4, 4))
    pose[..., :3, :] = np.stack([x, np.cross(z, x), z, (start + end) / 2], axis=-1)
    pose[..., 3, 3] = 1.0
    return pose, np.stack([radius, radius, length / 2], axis=-1)


def turn(axis: str, angle: float) -> Float64[np.ndarray, "3 3"]:
    """Rotation about one axis, right-handed, in radians."""
    c, s = np.cos(angle), np.sin(angle)
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    rotation = np.eye(3)
    rotation[first, first] = rotation[second, second] = c
    rotation[first, second], rotation[second, first] = -s, s
    return rotation
