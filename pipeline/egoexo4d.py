"""Ego-Exo4D on disk: a take's folders and videos, and where each of its cameras stood.

Poses leave as world_from_cam of the camera as its video is stored (Aria's upright), lenses with
pixel centres at +0.5, for the size of the video that is read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.agreement import PoseSources
from pipeline.aria import ExoCalibration, read_ego_calibration, read_gopro_calibs
from pipeline.camera_pose import exo_lens, exo_pose, read_camera_pose
from pipeline.cameras import (
    EGO_STREAM,
    EXO_STREAM,
    choose_ego,
    choose_exos,
    lens_of_video,
    synchronised_frames,
    turned_like_video,
)
from pipeline.dataset import Take, TakeEntry
from pipeline.ego_poses import annotated_ego_poses, recorded_ego_poses, upright
from pipeline.rejects import TakeRejected
from pipeline.takes import CategoryRule, TakeRecord, is_inside, read_takes
from pipeline.video import VideoFault, VideoHeader, probe
from stores.index import CameraRow
from stores.recipe import ClipRecipe

ARIA_TURNS_CW = 1
"""Quarter turns from Aria's sensor to its aligned video, which is stored upright."""
_SMALL_COPIES = "downscaled/448"
_READ_IN = ("trajectory", "frame_aligned_videos", f"frame_aligned_videos/{_SMALL_COPIES}")
_ROUNDING_PX = 2.0  # ffmpeg's `scale` makes sides even


@dataclass(frozen=True)
class _Video:
    path: str
    header: VideoHeader


class EgoExo4D:
    """A dataset root: lists takes, and loads one with everything that its clips need."""

    def __init__(self, root: Path, *, category_by: CategoryRule = "id"):
        self.root = root
        self._category_by: CategoryRule = category_by

    def takes(self) -> list[TakeEntry]:
        """Every entry of takes.json by name, usable or not.

        Read at each call, so that readers in other processes carry no list of takes."""
        return read_takes(self.root, self._category_by)

    def inputs(self, entry: TakeEntry) -> list[Path]:
        """Files of the take's folders, its camera_pose and its capture's timesync.csv."""
        if entry.fault is not None or not isinstance(entry.record, TakeRecord):
            return []
        below = entry.record.root_dir or f"takes/{entry.take_name}"
        take = [self.root / above / below / part for above in (".", "takes") for part in _READ_IN]
        name = f"*/camera_pose/{entry.take_uid}.json"
        times = Path("captures") / entry.record.capture.capture_name / "timesync.csv"
        return [
            *(file for folder in take for file in _listed(folder)),
            *(self.root / "annotations" / "ego_pose").glob(name),
            *(self.root / times, self.root / "captures" / times),
        ]

    def load(self, entry: TakeEntry, recipe: ClipRecipe) -> Take:
        """The take with its cameras. Raises TakeRejected with the reason if it cannot be used."""
        try:
            return self._load(entry, _record(entry), recipe)
        except VideoFault as fault:
            detail = f"{fault.where}: expected {fault.expected}, got {fault.got}"
            raise TakeRejected("unreadable_video", detail) from fault
        except OSError as refused:
            raise TakeRejected("unreadable_file", str(refused)) from refused

    def pose_sources(self, entry: TakeEntry) -> PoseSources | None:
        """What camera_pose and the trajectory's folder each say; None unless the take has both.

        Raises TakeRejected where `load` would."""
        record = _record(entry)
        folder = self._take_folder(record)
        annotated = read_camera_pose(self.root, record.take_uid)
        trajectory = folder / "trajectory"
        if not annotated or not (trajectory / "closed_loop_trajectory.csv").is_file():
            return None
        gopros, _ = read_gopro_calibs(trajectory / "gopro_calibs.csv")
        calibration = read_ego_calibration(trajectory / "online_calibration.jsonl")
        cam_id = choose_ego(record)
        frames = self._video(folder, record.video_of(cam_id, EGO_STREAM)).header.frames
        poses = annotated_ego_poses(annotated, cam_id, frames)
        if poses is None:
            return None
        both = sorted(gopros.keys() & annotated.keys())
        return PoseSources(
            ego_annotated=poses,
            ego_recorded=recorded_ego_poses(self.root, folder, record, cam_id, frames, calibration),
            exos_annotated={cam: _annotated_exo(annotated, cam, gopros[cam]) for cam in both},
            exos_recorded={cam: gopros[cam] for cam in both},
        )

    def _load(self, entry: TakeEntry, record: TakeRecord, recipe: ClipRecipe) -> Take:
        folder = self._take_folder(record)
        poses = read_camera_pose(self.root, record.take_uid) or {}
        gopros, refused = read_gopro_calibs(folder / "trajectory" / "gopro_calibs.csv")
        ego_id = choose_ego(record)
        exo_ids = choose_exos(record, recipe, {*gopros, *poses}, refused)
        videos = {ego_id: self._video(folder, record.video_of(ego_id, EGO_STREAM))}
        videos |= {cam: self._video(folder, record.video_of(cam, EXO_STREAM)) for cam in exo_ids}
        headers = {cam: video.header for cam, video in videos.items()}
        frame_count = synchronised_frames(headers, recipe.fps)
        return Take(
            take_name=record.take_name,
            take_uid=record.take_uid,
            capture_name=record.capture.capture_name,
            participant_uid=record.participant_uid or "",
            category=entry.category,
            split=entry.split,
            fps=recipe.fps,
            frame_count=frame_count,
            ego=self._ego(folder, record, ego_id, videos[ego_id], poses),
            exos=tuple(_exo(cam, videos[cam], gopros.get(cam), poses) for cam in exo_ids),
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
    ) -> CameraRow:
        calibration = read_ego_calibration(folder / "trajectory" / "online_calibration.jsonl")
        rows, columns = video.header.hw
        if abs(rows - columns) > _ROUNDING_PX:
            raise TakeRejected("odd_video_size", f"{cam_id}: {video.header.hw} is not square")
        raw_hw = (columns, rows) if ARIA_TURNS_CW % 2 else (rows, columns)
        frames = video.header.frames
        world_from_raw = annotated_ego_poses(annotated, cam_id, frames)
        if world_from_raw is None:
            world_from_raw = recorded_ego_poses(
                self.root, folder, record, cam_id, frames, calibration
            )
        return CameraRow(
            cam_id=cam_id,
            video=video.path,
            lens="fisheye624",
            params=calibration.lens.resized(raw_hw).params,
            hw=raw_hw,
            quarter_turns_cw=ARIA_TURNS_CW,
            world_from_cam=upright(world_from_raw),
        )


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # absent, or closed to us: `load` will say which
        return []


def _record(entry: TakeEntry) -> TakeRecord:
    if entry.fault is not None or not isinstance(entry.record, TakeRecord):
        raise TakeRejected(*(entry.fault or ("malformed_entry", "")))
    return entry.record


def _exo(
    cam_id: str, video: _Video, calibration: ExoCalibration | None, annotated: Mapping[str, Any]
) -> CameraRow:
    hw = video.header.hw
    if calibration is not None:
        lens = turned_like_video(calibration.lens, hw)
        world_from_cam = calibration.world_from_cam
    else:
        lens = exo_lens(annotated, cam_id, portrait=hw[0] > hw[1])
        world_from_cam = exo_pose(annotated, cam_id)
    return CameraRow(
        cam_id=cam_id,
        video=video.path,
        lens="kannala_brandt",
        params=lens_of_video(lens, hw, cam_id).params,
        hw=hw,
        quarter_turns_cw=0,
        world_from_cam=world_from_cam,
    )


def _annotated_exo(
    annotated: Mapping[str, Any], cam_id: str, beside: ExoCalibration
) -> ExoCalibration:
    """The exo camera as camera_pose alone has it; `beside` only says how the image lies."""
    portrait = beside.lens.hw[0] > beside.lens.hw[1]
    return ExoCalibration(exo_lens(annotated, cam_id, portrait), exo_pose(annotated, cam_id))


def _task_frames(record: TakeRecord, fps: float, frame_count: int) -> tuple[int, int] | None:
    """Frames wholly inside the task; where only one end is given, the other is the video's."""
    start, end = record.task_start_sec, record.task_end_sec
    if start is None and end is None:
        return None
    first = 0 if start is None else max(0, math.ceil(start * fps))
    past = frame_count if end is None else min(frame_count, math.floor(end * fps) + 1)
    return first, max(first, past)
