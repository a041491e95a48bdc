"""How the wearer's head moves in an exo video: as the ego poses say, and as the pixels show."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, Float64, Int64, UInt8

from exo2ego.geometry.camera import invert_rigid, transform_points
from pipeline.doctor.marks import lens_of
from pipeline.video import iterate_frames
from stores.index import CameraRow, ClipRow

REACH_METRES = 0.25
"""Half the side of the window around the head that is looked at: the head and little else."""
MOST_CELLS, LEAST_CELLS = 48, 9
"""Side of the window in cells: above the most, pixels are averaged; below the least, not used."""


@dataclass(frozen=True)
class HeadPath:
    """Where the ego camera is at every frame of a stretch, between the index's frames too."""

    first: int
    world_from_cam: Float64[np.ndarray, "n 4 4"]
    """Metres; NaN where the index's frames are too far apart to know."""

    @property
    def frames(self) -> range:
        """Video frames of the stretch."""
        return range(self.first, self.first + len(self.world_from_cam))

    @property
    def centres_world(self) -> Float64[np.ndarray, "n 3"]:
        """The ego camera's centre at each."""
        return self.world_from_cam[:, :3, 3]


@dataclass(frozen=True)
class HeadMotion:
    """Motion from each frame of a stretch to the next, in one view; NaN where unknown."""

    cam_id: str
    expected_px: Float64[np.ndarray, "n 2"]
    """Of what the window shows, as the ego poses say, in pixels of the video."""
    seen_px: Float64[np.ndarray, "n 2"]
    """Of the picture in the window, by least squares on its gradients."""
    change: Float64[np.ndarray, "n"]
    """Mean absolute difference of the window from frame to frame."""


def head_path(rows: Sequence[ClipRow], most_frames: int) -> HeadPath:
    """The ego camera's path over at most so many frames around the middle of a take's clips."""
    known = {
        frame: row.ego.world_from_cam[place]
        for row in rows
        for place, frame in enumerate(row.frames)
    }
    frames = np.array(sorted(known))
    middle, half = (frames[0] + frames[-1] + 1) // 2, most_frames // 2
    first, past = max(frames[0], middle - half), min(frames[-1] + 1, middle + half)
    wanted = np.arange(first, past)
    path = _poses_between(wanted, frames, np.stack([known[frame] for frame in frames]))
    after = np.searchsorted(frames, wanted)  # the first known frame that is not before
    apart = frames[after] - frames[np.maximum(after - 1, 0)]
    path[(frames[after] != wanted) & (apart > 2 * _stride(rows))] = np.nan
    return HeadPath(int(first), path)


def head_motion(root: Path, camera: CameraRow, path: HeadPath, hw: tuple[int, int]) -> HeadMotion:
    """Expected and seen motion of the head in one exo video of frames of size `hw`."""
    spots, radius_px = _spots(camera, path, hw)
    middles = (spots[1:] + spots[:-1]) / 2
    seen, change = seen_motion(root / camera.video, path.frames, middles, 2 * radius_px + 1)
    return HeadMotion(camera.cam_id, np.diff(spots, axis=0), seen, change)


def seen_motion(
    video: Path, frames: range, middles: Float64[np.ndarray, "n 2"], side_px: int
) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "n"]]:
    """Motion in pixels, and change, of a window about each middle from each frame to the next.

    NaN where the window is not wholly in the picture; nothing is decoded for too small a one."""
    seen, change = np.full((len(middles), 2), np.nan), np.full(len(middles), np.nan)
    factor = max(1, -(-side_px // MOST_CELLS))
    side = side_px // factor * factor
    if side // factor >= LEAST_CELLS:
        for place, (before, after) in enumerate(_pairs(video, frames)):
            corner = _corner(middles[place], side, (before.shape[0], before.shape[1]))
            if corner is not None:
                cells = [_cells(frame, corner, side, factor) for frame in (before, after)]
                seen[place] = factor * _shift(*cells)
                change[place] = np.abs(cells[1] - cells[0]).mean()
    return seen, change


def _poses_between(
    wanted: Int64[np.ndarray, "n"],
    frames: Int64[np.ndarray, "m"],
    poses: Float64[np.ndarray, "m 4 4"],
) -> Float64[np.ndarray, "n 4 4"]:
    """Poses at the wanted frames; each rotation the nearest to its interpolated numbers."""
    numbers = _between(wanted, frames, rearrange(poses, "m i j -> m (i j)"))
    found = rearrange(numbers, "n (i j) -> n i j", i=4).copy()
    left, _, right = np.linalg.svd(found[:, :3, :3])
    found[:, :3, :3] = left @ right
    return found


def _between(
    wanted: Int64[np.ndarray, "n"],
    frames: Int64[np.ndarray, "m"],
    values: Float64[np.ndarray, "m k"],
) -> Float64[np.ndarray, "n k"]:
    """Values at the wanted frames: cubic between the known ones, with their mean slopes."""
    if len(frames) == 1:
        return np.repeat(values, len(wanted), axis=0)
    slopes = np.gradient(values, frames, axis=0)
    left = np.clip(np.searchsorted(frames, wanted, side="right") - 1, 0, len(frames) - 2)
    span = (frames[left + 1] - frames[left])[:, None].astype(np.float64)
    u = (wanted - frames[left])[:, None] / span
    return (
        (1 + 2 * u) * (1 - u) ** 2 * values[left]
        + u**2 * (3 - 2 * u) * values[left + 1]
        + span * u * (1 - u) * ((1 - u) * slopes[left] - u * slopes[left + 1])
    )


def _stride(rows: Sequence[ClipRow]) -> int:
    frames = rows[0].frames
    return frames[1] - frames[0] if len(frames) > 1 else 1


def _spots(
    camera: CameraRow, path: HeadPath, hw: tuple[int, int]
) -> tuple[Float64[np.ndarray, "n 2"], int]:
    """Pixels of the head in the exo video, NaN where it is not seen, and its window's radius."""
    cam_from_world = invert_rigid(torch.from_numpy(camera.world_from_cam[0]))
    points = transform_points(cam_from_world, torch.from_numpy(path.centres_world.copy()))
    lens = lens_of(camera, hw)
    pixels, valid = lens.project(points)
    aside, _ = lens.project(points + torch.tensor([REACH_METRES, 0, 0], dtype=points.dtype))
    pixels = torch.where(valid[:, None], pixels, torch.nan)
    radii = (aside - pixels).square().sum(dim=-1).sqrt().numpy()
    known = radii[np.isfinite(radii)]
    return pixels.numpy(), int(np.median(known)) if len(known) else 0


def _pairs(
    video: Path, frames: range
) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W 3"]]]:
    """Each frame of the stretch with the next one."""
    before = None
    for _, frame in iterate_frames(video, frames):
        if before is not None:
            yield before, frame
        before = frame


def _corner(
    middle: Float64[np.ndarray, "2"], side: int, hw: tuple[int, int]
) -> tuple[int, int] | None:
    """Row and column where the window begins; None if it is not wholly in the picture."""
    if not np.isfinite(middle).all():
        return None
    column, row = (round(float(value) - side / 2) for value in middle)
    inside = 0 <= row <= hw[0] - side and 0 <= column <= hw[1] - side
    return (row, column) if inside else None


def _cells(
    frame: UInt8[np.ndarray, "H W 3"], corner: tuple[int, int], side: int, factor: int
) -> Float[np.ndarray, "h w"]:
    """Grey levels of the window, averaged to cells of `factor` pixels a side, and smoothed."""
    row, column = corner
    window = frame[row : row + side, column : column + side].astype(np.float64)
    cells = reduce(window, "(h y) (w x) rgb -> h w", "mean", y=factor, x=factor)
    for _ in range(2):
        padded = np.pad(cells, ((1, 1), (0, 0)), mode="edge")
        cells = rearrange((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4, "h w -> w h")
    return cells


def _shift(
    before: Float[np.ndarray, "h w"], after: Float[np.ndarray, "h w"]
) -> Float64[np.ndarray, "2"]:
    """Cells (x, y) by which the window's content moves; its middle counts most."""
    weight = _weight(before.shape[0])
    by_y, by_x = np.gradient((before + after) / 2)
    gradient = np.stack([by_x, by_y])
    normal = np.einsum("ihw,jhw,hw->ij", gradient, gradient, weight)
    change = np.einsum("ihw,hw,hw->i", gradient, after - before, weight)
    # a plain window has no gradient to go by: a little damping says "no motion" there
    damping = (1e-3 * np.trace(normal) + 1e-6) * np.eye(2)
    return -np.linalg.solve(normal + damping, change)


def _weight(side: int) -> Float64[np.ndarray, "h w"]:
    across = (np.arange(side) - (side - 1) / 2) / (side / 4)
    bell = np.exp(-0.5 * across**2)
    return bell[:, None] * bell[None, :]
