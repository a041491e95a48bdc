"""The metadata files: entries of takes.json and captures.json, and splits.json, key by key."""

from collections.abc import Sequence
from typing import Any

from pipeline.simulate.traits import FRAMES_PER_SECOND, SPLIT_NAMES, TakePlan

ARIA_STREAMS = {"rgb": "214-1", "slam-left": "1201-1", "slam-right": "1201-2", "et": "211-1"}
"""Streams of the glasses; only rgb is drawn, the others' files are missing as in a partial copy."""
PHONE = "mobile"


def take_entry(plan: TakePlan) -> dict[str, Any]:
    """One entry of takes.json."""
    task, span = plan.task, plan.has_task_span
    return {
        "root_dir": f"takes/{plan.take_name}",
        "take_name": plan.take_name,
        "participant_uid": plan.participant_uid,
        "is_dropped": plan.is_dropped,
        "objects": [],
        "task_id": task.task_id,
        "task_name": task.task_name,
        "parent_task_id": task.parent_task_id,
        "parent_task_name": task.parent_task_name,
        "take_idx": plan.index,
        "duration_sec": plan.seconds,
        "best_exo": None if plan.index % 4 == 3 else plan.exo_ids[0],
        "task_start_sec": 0.1 * plan.seconds if span else None,
        "task_end_sec": plan.seconds if span else None,
        "task_timing_annotation_uid": None,
        "is_narrated": False,
        "capture_uid": plan.capture_uid,
        "take_uid": plan.take_uid,
        "take_timing_uid": plan.take_uid,
        "timesync_uid": plan.timesync_uid,
        "timesync_start_idx": plan.first_row,
        "timesync_end_idx": plan.first_row + plan.frames,
        "frame_aligned_videos": _aligned_videos(plan),
        "vrs_all_streams_relative_path": f"{plan.ego_id}.vrs",
        "vrs_relative_path": f"{plan.ego_id}_noimagestreams.vrs",
        "trimmed_eye_gaze_relative_path": "eye_gaze",
        "trimmed_trajectory_relative_path": "trajectory",
        "has_trimmed_eye_gaze": False,
        "has_trimmed_trajectory": True,
        "has_trimmed_vrs": False,
        "university_id": plan.university,
        "university_name": plan.university,
        "origin_id": f"{plan.university}_{plan.index}",
        "capture": capture_entry(plan),
        "physical_setting_uid": plan.capture_uid,
        "validated": True,
    }


def capture_entry(plan: TakePlan) -> dict[str, Any]:
    """One entry of captures.json; also inside its take's."""
    cameras = [_camera(plan, plan.ego_id, True, "aria", f"{plan.ego_id}.vrs")]
    cameras += [_camera(plan, cam_id, False, "hero10", f"{cam_id}.mp4") for cam_id in plan.exo_ids]
    cameras.append(_camera(plan, PHONE, False, "iphone", f"{PHONE}.mp4"))
    if plan.exo_ids[0].startswith("gp"):
        cameras.append(_camera(plan, "gp05", True, "hero10", "gp05.mp4"))
    return {
        "root_dir": f"captures/{plan.capture_name}",
        "capture_name": plan.capture_name,
        "capture_uid": plan.capture_uid,
        "university_name": plan.university,
        "origin_capture_id": plan.capture_name,
        "physical_setting_uid": plan.capture_uid,
        "ds_recorded": "2023-03-30",
        "has_trajectory": True,
        "has_gaze": False,
        "has_postsurvey": False,
        "cameras": cameras,
        "timesync_uid": plan.timesync_uid,
        "timesync_validated": True,
        "validated": True,
    }


def splits_file(plans: Sequence[TakePlan], stray: str | None) -> dict[str, Any]:
    """splits.json; `stray` is a training uid that no entry of takes.json has."""
    of_uid = {plan.take_uid: plan.split for plan in plans}
    if stray is not None:
        of_uid[stray] = "train"
    return {
        "take_uid_to_split": of_uid,
        "split_to_take_uids": {
            name: [uid for uid, split in of_uid.items() if split == name] for name in SPLIT_NAMES
        },
        "take_uid_to_benchmark": {uid: ["ego_pose"] for uid in of_uid},
        "ds": "20240404_08:13:53",
    }


def video_name(plan: TakePlan, cam_id: str) -> str:
    """File name of a camera's aligned video."""
    return f"{cam_id}_{ARIA_STREAMS['rgb']}.mp4" if cam_id == plan.ego_id else f"{cam_id}.mp4"


def _camera(
    plan: TakePlan, cam_id: str, is_ego: bool, device_type: str, path: str
) -> dict[str, Any]:
    return {
        "cam_id": cam_id,
        "is_ego": str(is_ego) if plan.flags_as_text else is_ego,
        "has_walkaround": cam_id == PHONE,
        "includes_audio": False,
        "device_type": device_type,
        "relative_path": f"videos/{path}",
        "video_artifact_uid": None,
    }


def _aligned_videos(plan: TakePlan) -> dict[str, Any]:
    """The map of aligned videos, with the collage and best-exo entries that are no cameras."""
    videos = {
        plan.ego_id: {
            name: _stream(plan.ego_id, stream, name, f"{plan.ego_id}_{stream}.mp4")
            for name, stream in ARIA_STREAMS.items()
        }
    }
    for cam_id in plan.exo_ids:
        videos[cam_id] = {"0": _stream(cam_id, "0", "rgb", f"{cam_id}.mp4")}
    for cam_id, path in (("collage", "ego_preview.mp4"), ("best_exo", None)):
        entry = _stream(cam_id, "0", "rgb", "")
        videos[cam_id] = {"0": entry | {"is_collage": True, "relative_path": path}}
    return videos


def _stream(cam_id: str, stream_id: str, readable: str, file_name: str) -> dict[str, Any]:
    return {
        "cam_id": cam_id,
        "stream_id": stream_id,
        "readable_stream_id": readable,
        "clip_uid": None,
        "is_collage": False,
        "relative_path": f"frame_aligned_videos/{file_name}",
    }


def frames_of(seconds: float) -> int:
    """Frames of a take of about so many seconds."""
    return round(seconds * FRAMES_PER_SECOND)
