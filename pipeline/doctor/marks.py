"""Where one camera of a clip stands in the picture of another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from exo2ego.geometry.camera import invert_rigid, transform_points
from exo2ego.geometry.lenses import Lens, make_lens
from stores.index import CameraRow, ClipRow

HEAD_METRES = 0.14
"""Radius of the circle around an ego camera: about a head's, so that its size can be judged."""


@dataclass(frozen=True)
class Mark:
    """A camera's centre in the picture of another."""

    name: str
    pixel: tuple[float, float]
    """(x, y); the picture's borders are at 0 and at its size."""
    radius_px: float
    """Of the circle around it."""


def lens_of(camera: CameraRow, hw: tuple[int, int]) -> Lens:
    """The lens of the camera's video, for its frames squashed to `hw`."""
    return make_lens(camera.lens, camera.params, camera.hw, camera.quarter_turns_cw).resized(hw)


def pose_at(camera: CameraRow, place: int) -> Float64[np.ndarray, "4 4"]:
    """world_from_cam at the clip's frame number `place`; a fixed camera's only one."""
    return camera.world_from_cam[place if len(camera.world_from_cam) > 1 else 0]


@dataclass(frozen=True, eq=False)
class Sight:
    """One camera as another may see it, at one frame of a clip."""

    seen: CameraRow
    viewer: CameraRow
    place: int


def marks_of(
    sights: Sequence[Sight], hw: tuple[int, int], radius_metres: float
) -> list[Mark | None]:
    """The centres of cameras in frames of size `hw` of one viewer, at any of its frames.

    None where one is outside the picture, or outside what the lens sees, or a pose is missing."""
    if not sights:
        return []
    points = torch.stack([_seen_from_viewer(sight) for sight in sights])
    aside = points + points.new_tensor([radius_metres, 0.0, 0.0])
    pixels, valid = lens_of(sights[0].viewer, hw).project(torch.stack([points, aside]))
    radii_px = (pixels[1] - pixels[0]).square().sum(dim=-1).sqrt()
    borders = pixels.new_tensor([hw[1], hw[0]])
    inside = valid[0] & ((pixels[0] >= 0) & (pixels[0] <= borders)).all(dim=-1)
    return [
        Mark(sight.seen.cam_id, (x, y), radius if has_radius else 0.0) if is_inside else None
        for sight, (x, y), radius, has_radius, is_inside in zip(
            sights, pixels[0].tolist(), radii_px.tolist(), valid[1].tolist(), inside.tolist(),
            strict=True,
        )
    ]  # fmt: skip


def mark_of(
    seen: CameraRow, viewer: CameraRow, place: int, hw: tuple[int, int], radius_metres: float
) -> Mark | None:
    """`marks_of` one camera."""
    return marks_of([Sight(seen, viewer, place)], hw, radius_metres)[0]


def share_in_view(rows: Sequence[ClipRow]) -> float | None:
    """Share of clips and exo views whose picture holds the ego camera at the clip's first frame.

    None if there is no exo view. The lens's own frame size serves: shares know no pixels."""
    found: list[Mark | None] = []
    for view, exo in enumerate(rows[0].present):
        sights = [Sight(row.ego, row.present[view], 0) for row in rows]
        found += marks_of(sights, _turned_hw(exo), 0.0)
    return sum(mark is not None for mark in found) / len(found) if found else None


def _turned_hw(camera: CameraRow) -> tuple[int, int]:
    rows, columns = camera.hw
    return (columns, rows) if camera.quarter_turns_cw % 2 else (rows, columns)


def _seen_from_viewer(sight: Sight) -> Float64[Tensor, "3"]:
    cam_from_world = invert_rigid(torch.from_numpy(pose_at(sight.viewer, sight.place)))
    centre_world = pose_at(sight.seen, sight.place)[:3, 3]
    return transform_points(cam_from_world, torch.from_numpy(centre_world))
