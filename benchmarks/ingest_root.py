"""A root of Ego-Exo4D with many takes, for timing: one simulated take, stretched and copied."""

import copy
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import av
import numpy as np
import orjson

from pipeline.simulate.root import simulate_root

SECONDS = 37.0
"""1,110 frames, as a take of the dataset whose camera_pose has 1,108 poses and 1.4 MB."""
FPS, SIDE_BY_SIDE = 30, (36, 64)
EGO_SIDE = 64
_INDENT = 11
"""Spaces a level that make camera_pose as long as a released one of as many frames, 1.4 MB."""


def real_size_root(out: Path, *, takes: int, seconds: float = SECONDS) -> Path:
    """A root with so many takes of so many seconds; their videos and calibrations are one file."""
    seed_root = out.with_name(out.name + "-seed")
    simulate_root(seed_root, takes=1, seconds=1.4, seed=1, height=16, samples=1, faults=False)
    (entry,) = orjson.loads((seed_root / "takes.json").read_bytes())
    frames = round(seconds * FPS)
    entry["timesync_end_idx"] = entry["timesync_start_idx"] + frames
    entry["duration_sec"] = seconds
    entry |= {"task_start_sec": None, "task_end_sec": None, "task_id": 4001, "parent_task_id": 4000}
    first = seed_root / entry["root_dir"]
    _stretch_videos(first, frames)
    _stretch_calibration(first / "trajectory" / "online_calibration.jsonl", frames)
    poses = _stretched_poses(seed_root, entry["take_uid"], frames)
    entries = [_copied(entry, number) for number in range(takes)]
    for copied in entries:
        _write_take(out, first, copied, poses)
    write_lists(out, entries)
    shutil.rmtree(seed_root)
    return out


def write_lists(out: Path, entries: Iterable[dict[str, Any]]) -> None:
    """takes.json and splits.json of the entries."""
    listed = list(entries)
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    (out / "takes.json").write_bytes(orjson.dumps(listed))
    splits = {entry["take_uid"]: "train" for entry in listed}
    (out / "annotations" / "splits.json").write_bytes(orjson.dumps({"take_uid_to_split": splits}))


def _copied(entry: dict[str, Any], number: int) -> dict[str, Any]:
    copied = copy.deepcopy(entry)
    name = f"cmu_bike{number:04d}_1"
    return copied | {
        "take_name": name,
        "take_uid": f"00000000-0000-4000-8000-{number:012d}",
        "root_dir": f"takes/{name}",
    }


def _write_take(
    out: Path, first: Path, entry: dict[str, Any], poses: tuple[str, bytes, bytes]
) -> None:
    folder = out / entry["root_dir"]
    for part in ("trajectory", "frame_aligned_videos/downscaled/448"):
        (folder / part).mkdir(parents=True)
        for file in (first / part).iterdir():
            (folder / part / file.name).hardlink_to(file)
    below, head, body = poses
    path = out / below / f"{entry['take_uid']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head.replace(b"?", entry["take_uid"].encode()) + body)


def _stretched_poses(seed_root: Path, take_uid: str, frames: int) -> tuple[str, bytes, bytes]:
    """Folder, beginning and rest of a camera_pose file with frames - 2 poses, indented as the
    released ones are; "?" is where the take's uid goes."""
    (path,) = (seed_root / "annotations" / "ego_pose").glob(f"*/camera_pose/{take_uid}.json")
    cameras = orjson.loads(path.read_bytes())
    for camera in cameras.values():
        poses = camera.get("camera_extrinsics")
        if isinstance(poses, dict):
            given = list(poses.values())
            camera["camera_extrinsics"] = {
                str(frame): given[frame % len(given)] for frame in range(frames - 2)
            }
    cameras.pop("metadata")
    head = b'{"metadata": {"take_name": "x", "take_uid": "?"},'
    body = json.dumps(cameras, indent=_INDENT).encode()
    return path.parent.relative_to(seed_root).as_posix(), head, body[1:]


def _stretch_calibration(path: Path, frames: int) -> None:
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(lines[frame % len(lines)] for frame in range(frames)))


def _stretch_videos(folder: Path, frames: int) -> None:
    for path in (folder / "frame_aligned_videos" / "downscaled" / "448").iterdir():
        is_ego = path.name.endswith("_214-1.mp4")
        hw = (EGO_SIDE, EGO_SIDE) if is_ego else SIDE_BY_SIDE
        path.unlink()
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.height, stream.width, stream.pix_fmt = *hw, "yuv420p"
            picture = np.full((*hw, 3), 90, np.uint8)
            for _ in range(frames):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
