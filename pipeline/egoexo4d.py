"""Ego-Exo4D on disk: a take's folders and videos, and where each of its cameras stood.

Poses leave as world_from_cam of the camera as its video is stored (Aria's upright), lenses with
pixel centres at +0.5, for the size of the video that is read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from exo2ego.geometry.camera import compose
from exo2ego.geometry.lenses import Lens
from pipeline.aria import (
    EgoCalibration,
    ExoCalibration,
    calibration_times_us,
    read_ego_calibration,
    read_gopro_calibs,
    timesync_times_us,
    trajectory_poses,
)
from pipeline.camera_pose import ego_poses, exo_lens, exo_pose, read_camera_pose
from pipeline.cameras import EGO_STREAM, EXO_STREAM, choose_ego, choose_exos
from pipeline.rejects import TakeRejected
from pipeline.takes import CategoryRule, TakeEntry, TakeRecord, is_inside, read_takes
from pipeline.video import VideoFault, VideoHeader, probe
from stores.index import ClipRecipe

ARIA_TURNS_CW = 1
"""Quarter turns from Aria's sensor to its aligned video, which is stored upright."""
_RAW_FROM_UPRIGHT = ((0.0, 1.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))
_SMALL_COPIES = "downscaled/448"
_ASPECT_SLACK, _ROUNDING_PX = 0.01, 2.0  # ffmpeg's `scale` makes sides even
_FPS_SLACK = 0.01


@dataclass(frozen=True, eq=False)
class TakeCamera:
    """One camera of a take: its video, its lens as plain numbers, and where it stood."""

    cam_id: str
    video: str
    """Path below the root, with forward slashes."""
    lens: str
    params: tuple[float, ...]
    """In the order of the lens's kind, for frames of `hw`, pixel centres at +0.5."""
    hw: tuple[int, int]
    """Rows and columns of the video's frames before `quarter_turns_cw`."""
    quarter_turns_cw: int
    world_from_cam: Float64[np.ndarray, "n 4 4"]
    """n = 1 if fixed, else one a video frame, NaN where there is none."""


@dataclass(frozen=True, eq=False)
class Take:
    """One usable take: five synchronised videos with cameras."""

    take_name: str
    take_uid: str
    capture_name: str
    participant_uid: str
    category: str
    split: str
    fps: float
    frame_count: int
    ego: TakeCamera
    exos: tuple[TakeCamera, ...]
    task_frames: tuple[int, int] | None
    """First frame of the task and one past its last; None if takes.json does not say."""


@dataclass(frozen=True)
class _Video:
    path: str
    header: VideoHeader


class EgoExo4D:
    """A dataset root: lists takes, and loads one with everything that its clips need."""

    def __init__(self, root: Path, *, category_by: CategoryRule = "id"):
        self.root = root
        self._entries = read_takes(root, category_by)

    def takes(self) -> list[TakeEntry]:
        """Every entry of takes.json by name, usable or not."""
        return list(self._entries)

    def load(self, entry: TakeEntry, recipe: ClipRecipe) -> Take:
        """The take with its cameras. Raises TakeRejected with the reason if it cannot be used."""
        if entry.fault is not None or entry.record is None:
            raise TakeRejected(*(entry.fault or ("malformed_entry", "")))
        try:
            return self._load(entry, entry.record, recipe)
        except VideoFault as fault:
            detail = f"{fault.where}: expected {fault.expected}, got {fault.got}"
            raise TakeRejected("unreadable_video", detail) from fault
        except OSError as refused:
            raise TakeRejected("unreadable_file", str(refused)) from refused

    def _load(self, entry: TakeEntry, record: TakeRecord, recipe: ClipRecipe) -> Take:
        folder = self._take_folder(record)
        poses = read_camera_pose(self.root, record.take_uid) or {}
        gopros, refused = read_gopro_calibs(folder / "trajectory" / "gopro_calibs.csv")
        ego_id = choose_ego(record)
        exo_ids = choose_exos(record, recipe.views, {*gopros, *poses}, refused)
        videos = {ego_id: self._video(folder, record.video_of(ego_id, EGO_STREAM))}
        videos |= {cam: self._video(folder, record.video_of(cam, EXO_STREAM)) for cam in exo_ids}
        frame_count = _frame_count(videos, recipe.fps)
        ego = self._ego(folder, record, ego_id, videos[ego_id], poses)
        exos = [_exo(cam, videos[cam], gopros.get(cam), poses) for cam in exo_ids]
        return Take(
            take_name=record.take_name,
            take_uid=record.take_uid,
            capture_name=record.capture.capture_name,
            participant_uid=record.participant_uid or "",
            category=entry.category,
            split=entry.split,
            fps=recipe.fps,
            frame_count=frame_count,
            ego=ego,
            exos=tuple(exos),
            task_frames=_task_frames(record, recipe.fps, frame_count),
        )

    def _take_folder(self, record: TakeRecord) -> Path:
        below = record.root_dir or f"takes/{record.take_name}"
        # Downloads by ego4d before 1.7 have one folder too many: takes/takes/.
        for folder in (self.root / below, self.root / "takes" / below):
            if folder.is_dir():
                return folder
        raise TakeRejected("not_downloaded", f"no folder {below}")

    def _video(self, folder: Path, path: str | None) -> _Video:
        if path is None or not is_inside(path):
            raise TakeRejected("bad_name", f"video {path!r}")
        full = folder / path
        small = full.parent / _SMALL_COPIES / full.name
        found = next((file for file in (small, full) if file.is_file()), None)
        if found is None:
            raise TakeRejected("missing_video", f"neither {_SMALL_COPIES}/{full.name} nor {path}")
        return _Video(found.relative_to(self.root).as_posix(), probe(found))

    def _ego(
        self,
        folder: Path,
        record: TakeRecord,
        cam_id: str,
        video: _Video,
        annotated: Mapping[str, Any],
    ) -> TakeCamera:
        calibration = read_ego_calibration(folder / "trajectory" / "online_calibration.jsonl")
        rows, columns = video.header.hw
        if abs(rows - columns) > _ROUNDING_PX:
            raise TakeRejected("odd_video_size", f"{cam_id}: {video.header.hw} is not square")
        raw_hw = (columns, rows) if ARIA_TURNS_CW % 2 else (rows, columns)
        frames = video.header.frames
        world_from_raw = ego_poses(annotated, cam_id, frames) if cam_id in annotated else None
        if world_from_raw is None or not np.isfinite(world_from_raw).any():
            world_from_raw = self._ego_from_trajectory(folder, record, cam_id, frames, calibration)
        return TakeCamera(
            cam_id=cam_id,
            video=video.path,
            lens="fisheye624",
            params=calibration.lens.resized(raw_hw).params,
            hw=raw_hw,
            quarter_turns_cw=ARIA_TURNS_CW,
            world_from_cam=_upright(world_from_raw),
        )

    def _ego_from_trajectory(
        self,
        folder: Path,
        record: TakeRecord,
        cam_id: str,
        frame_count: int,
        calibration: EgoCalibration,
    ) -> Float64[np.ndarray, "n 4 4"]:
        path = folder / "trajectory" / "closed_loop_trajectory.csv"
        if not path.is_file():
            raise TakeRejected("no_ego_poses", f"no camera_pose for {cam_id}, no {path.name}")
        times_us = self._timesync(record, cam_id, frame_count)
        if times_us is None:
            times_us = calibration_times_us(path.with_name("online_calibration.jsonl"))
            if len(times_us) != frame_count:
                detail = f"{len(times_us)} calibration lines for {frame_count} frames, no timesync"
                raise TakeRejected("no_frame_times", detail)
        return trajectory_poses(path, times_us, calibration.device_from_cam)

    def _timesync(
        self, record: TakeRecord, cam_id: str, frame_count: int
    ) -> Float64[np.ndarray, "n"] | None:
        start, end = record.timesync_start_idx, record.timesync_end_idx
        if start is None or end is None:
            return None
        below = Path("captures") / record.capture.capture_name / "timesync.csv"
        found = next(
            (
                path
                for path in (self.root / below, self.root / "captures" / below)
                if path.is_file()
            ),
            self.root / below,
        )
        times_us = timesync_times_us(found, cam_id, start, frame_count)
        if times_us is not None and end - start != frame_count:
            detail = f"rows {start} to {end} for {frame_count} video frames"
            raise TakeRejected("bad_timesync", detail)
        return times_us


def _exo(
    cam_id: str, video: _Video, calibration: ExoCalibration | None, annotated: Mapping[str, Any]
) -> TakeCamera:
    hw = video.header.hw
    lens: Lens
    if calibration is not None:
        lens, world_from_cam = calibration.lens, calibration.world_from_cam
    else:
        lens = exo_lens(annotated, cam_id, portrait=hw[0] > hw[1])
        world_from_cam = exo_pose(annotated, cam_id)
    off_px = abs(hw[1] - hw[0] * lens.hw[1] / lens.hw[0])
    if off_px > max(_ROUNDING_PX, _ASPECT_SLACK * hw[1]):
        raise TakeRejected("odd_video_size", f"{cam_id}: video {hw}, calibration {lens.hw}")
    return TakeCamera(
        cam_id=cam_id,
        video=video.path,
        lens="kannala_brandt",
        params=lens.resized(hw).params,
        hw=hw,
        quarter_turns_cw=0,
        world_from_cam=world_from_cam,
    )


def _frame_count(videos: Mapping[str, _Video], fps: float) -> int:
    for cam_id, video in videos.items():
        if abs(video.header.fps - fps) > _FPS_SLACK:
            raise TakeRejected("wrong_fps", f"{cam_id}: {video.header.fps:g}, not {fps:g}")
    counts = {cam_id: video.header.frames for cam_id, video in videos.items()}
    if len(set(counts.values())) != 1:
        raise TakeRejected("frame_counts_differ", str(counts))
    return next(iter(counts.values()))


def _task_frames(record: TakeRecord, fps: float, frame_count: int) -> tuple[int, int] | None:
    """Frames wholly inside the task; where only one end is given, the other is the video's."""
    start, end = record.task_start_sec, record.task_end_sec
    if start is None and end is None:
        return None
    first = 0 if start is None else max(0, math.ceil(start * fps))
    past = frame_count if end is None else min(frame_count, math.floor(end * fps) + 1)
    return first, max(first, past)


def _upright(world_from_raw: Float64[np.ndarray, "n 4 4"]) -> Float64[np.ndarray, "n 4 4"]:
    raw_from_upright = torch.tensor([*_RAW_FROM_UPRIGHT, (0.0, 0.0, 0.0, 1.0)], dtype=torch.float64)
    poses = np.full_like(world_from_raw, np.nan)
    known = np.isfinite(world_from_raw).all(axis=(1, 2))
    poses[known] = compose(torch.from_numpy(world_from_raw[known]), raw_from_upright).numpy()
    return poses
