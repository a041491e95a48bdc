"""How well a take's two sources of poses agree: camera_pose, and the trajectory's folder."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64

from exo2ego.geometry.camera import compose, invert_rigid, transform_points
from exo2ego.geometry.lenses import Lens, virtual_pinhole
from pipeline.aria import ExoCalibration

SIDE_PX = 256
"""Side of the frames that pixels are counted in: the paper's."""
AHEAD_METRES = 2.0
"""How far in front of the camera the point lies whose two pixels are compared."""
EGO_FOCAL_PER_SIDE = 150 / 512
"""Of the virtual ego camera that the pixels are of: Ego-Exo4D's own."""
MOST_FRAMES = 100
"""Ego frames that are compared, spread evenly: enough for a median, cheap for long takes."""


@dataclass(frozen=True, eq=False)
class PoseSources:
    """One take's cameras by both sources, world_from_cam; the ego camera's as it is mounted."""

    ego_annotated: Float64[np.ndarray, "n 4 4"]
    """Of every video frame by camera_pose, NaN where it has none."""
    ego_recorded: Float64[np.ndarray, "n 4 4"]
    """The same by closed_loop_trajectory.csv."""
    exos_annotated: Mapping[str, ExoCalibration]
    """By camera id, those that both sources have."""
    exos_recorded: Mapping[str, ExoCalibration]


@dataclass(frozen=True)
class Difference:
    """Two poses of one camera apart: of the centres, of the axes, and in the image."""

    millimetres: float
    degrees: float
    pixels: float
    """Between the images, 256 x 256, of the point 2 m ahead of the first pose."""


@dataclass(frozen=True)
class PoseAgreement:
    """Differences of a take's two sources of poses."""

    frames: int
    """Ego frames that were compared."""
    ego_median: Difference | None
    """None if no frame has both poses."""
    ego_max: Difference | None
    exos: Mapping[str, Difference]
    """By camera id; pixels with each source's own lens."""

    @property
    def worst(self) -> Difference | None:
        """The largest of each number over ego frames and exo cameras."""
        found = [*self.exos.values(), *([self.ego_max] if self.ego_max else [])]
        if not found:
            return None
        return Difference(
            max(one.millimetres for one in found),
            max(one.degrees for one in found),
            max(one.pixels for one in found),
        )


def pose_agreement(sources: PoseSources) -> PoseAgreement:
    """How far apart the two sources put every camera."""
    both = np.isfinite(sources.ego_annotated) & np.isfinite(sources.ego_recorded)
    known = np.flatnonzero(both.all(axis=(1, 2)))
    places = np.linspace(0, max(0, len(known) - 1), MOST_FRAMES).round().astype(int)
    frames = known[np.unique(places)[: len(known)]]
    ego_lens = virtual_pinhole((SIDE_PX, SIDE_PX), EGO_FOCAL_PER_SIDE)
    numbers = _differences(
        sources.ego_annotated[frames], sources.ego_recorded[frames], ego_lens, ego_lens
    )
    exos = {}
    for cam_id, annotated in sources.exos_annotated.items():
        recorded = sources.exos_recorded[cam_id]
        lenses = (one.lens.resized((SIDE_PX, SIDE_PX)) for one in (annotated, recorded))
        (row,) = _differences(annotated.world_from_cam, recorded.world_from_cam, *lenses)
        exos[cam_id] = Difference(*row.tolist())
    if not len(frames):
        return PoseAgreement(0, None, None, exos)
    median, most = np.median(numbers, axis=0).tolist(), numbers.max(axis=0).tolist()
    return PoseAgreement(len(frames), Difference(*median), Difference(*most), exos)


def _differences(
    world_from_a: Float64[np.ndarray, "n 4 4"],
    world_from_b: Float64[np.ndarray, "n 4 4"],
    lens_a: Lens,
    lens_b: Lens,
) -> Float64[np.ndarray, "n 3"]:
    """Millimetres, degrees and pixels from a to b."""
    a, b = torch.from_numpy(world_from_a), torch.from_numpy(world_from_b)
    a_from_b = compose(invert_rigid(a), b)
    millimetres = a_from_b[:, :3, 3].norm(dim=-1) * 1000
    # of the half angle: near zero, where the poses agree, an arc cosine has no digits left
    half_chord = (a_from_b[:, :3, :3] - torch.eye(3, dtype=torch.float64)).flatten(1).norm(dim=-1)
    degrees = torch.rad2deg(2 * torch.asin((half_chord / 8**0.5).clamp(max=1)))
    ahead = torch.tensor([0.0, 0.0, AHEAD_METRES], dtype=torch.float64).expand(len(a), 3)
    pixels_a, _ = lens_a.project(ahead)
    pixels_b, seen = lens_b.project(transform_points(invert_rigid(a_from_b), ahead))
    pixels = torch.where(seen, (pixels_a - pixels_b).norm(dim=-1), torch.inf)
    return torch.stack([millimetres, degrees, pixels], dim=-1).numpy()
