"""Where Ego-Exo4D's ego camera stood in every video frame, by camera_pose or by the trajectory.

Poses leave as world_from_cam of the sideways camera, as it is mounted; `upright` turns them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from exo2ego.geometry.camera import compose
from pipeline.aria import (
    EgoCalibration,
    calibration_times_us,
    timesync_times_us,
    trajectory_poses,
)
from pipeline.camera_pose import ego_poses
from pipeline.rejects import TakeRejected
from pipeline.takes import TakeRecord

_RAW_FROM_UPRIGHT = ((0.0, 1.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))


def annotated_ego_poses(
    annotated: Mapping[str, Any], cam_id: str, frame_count: int
) -> Float64[np.ndarray, "n 4 4"] | None:
    """Poses of every frame by camera_pose; None if it has none of this camera."""
    if cam_id not in annotated:
        return None
    poses = ego_poses(annotated, cam_id, frame_count)
    return poses if np.isfinite(poses).any() else None


def recorded_ego_poses(
    root: Path,
    take_folder: Path,
    record: TakeRecord,
    cam_id: str,
    frame_count: int,
    calibration: EgoCalibration,
) -> Float64[np.ndarray, "n 4 4"]:
    """Poses of every frame by closed_loop_trajectory.csv, NaN where it has none near.

    Rejects the take if there is no such file, or nothing says when the frames were taken."""
    path = take_folder / "trajectory" / "closed_loop_trajectory.csv"
    if not path.is_file():
        raise TakeRejected("no_ego_poses", f"no camera_pose for {cam_id}, no {path.name}")
    times_us = _timesync(root, record, cam_id, frame_count)
    if times_us is None:
        times_us = calibration_times_us(path.with_name("online_calibration.jsonl"))
        if len(times_us) != frame_count:
            detail = f"{len(times_us)} calibration lines for {frame_count} frames, no timesync"
            raise TakeRejected("no_frame_times", detail)
    return trajectory_poses(path, times_us, calibration.device_from_cam)


def upright(world_from_raw: Float64[np.ndarray, "n 4 4"]) -> Float64[np.ndarray, "n 4 4"]:
    """Poses of the camera turned upright, as its video is stored."""
    raw_from_upright = torch.tensor([*_RAW_FROM_UPRIGHT, (0.0, 0.0, 0.0, 1.0)], dtype=torch.float64)
    poses = np.full_like(world_from_raw, np.nan)
    known = np.isfinite(world_from_raw).all(axis=(1, 2))
    poses[known] = compose(torch.from_numpy(world_from_raw[known]), raw_from_upright).numpy()
    return poses


def _timesync(
    root: Path, record: TakeRecord, cam_id: str, frame_count: int
) -> Float64[np.ndarray, "n"] | None:
    start, end = record.timesync_start_idx, record.timesync_end_idx
    if start is None or end is None:
        return None
    below = Path("captures") / record.capture.capture_name / "timesync.csv"
    places = (root / below, root / "captures" / below)
    found = next((path for path in places if path.is_file()), root / below)
    times_us = timesync_times_us(found, cam_id, start, frame_count)
    if times_us is not None and end - start != frame_count:
        detail = f"rows {start} to {end} for {frame_count} video frames"
        raise TakeRejected("bad_timesync", detail)
    return times_us
