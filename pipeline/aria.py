"""Files of Aria's machine perception: gopro_calibs, online_calibration, trajectory, timesync.

Poses leave as world_from_cam of the camera as it is mounted; the ego camera lies on its side.
Pixel centres leave at +0.5: the files' lenses count pixels from their centres.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pcsv
import torch
from jaxtyping import Float64

from exo2ego.geometry.camera import CameraError, compose, rigid_from_quaternion
from exo2ego.geometry.lenses import (
    ARIA_CALIBRATED_HW,
    Fisheye624,
    KannalaBrandt,
    fisheye624_2880_to_1408,
    make_lens,
)
from pipeline.rejects import TakeRejected

NEAREST_POSE_US = 20_000
"""How far a trajectory row may be from its frame. Choice: under a frame; rows come at 1 kHz."""
_ARIA_VIDEO_HW = (1408, 1408)
_CENTRE_SLACK = 0.1


@dataclass(frozen=True, eq=False)
class ExoCalibration:
    """A GoPro's raw lens at its native image size, and where it stood."""

    lens: KannalaBrandt
    world_from_cam: Float64[np.ndarray, "1 4 4"]


@dataclass(frozen=True, eq=False)
class EgoCalibration:
    """Aria's rgb lens for the 1408 x 1408 sideways image, and its place on the device."""

    lens: Fisheye624
    device_from_cam: Float64[np.ndarray, "4 4"]


def read_gopro_calibs(path: Path) -> tuple[dict[str, ExoCalibration], dict[str, str]]:
    """Calibrations of quality 1 by camera id, and for every other row why it is not one.

    Choice: of several good rows of one camera, one for the whole video counts; several for parts
    of a video count for nothing, for it is not documented whose frames their numbers are."""
    if not path.is_file():
        return {}, {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [_stripped(row) for row in csv.DictReader(file)]
    except (csv.Error, UnicodeDecodeError) as damage:
        raise TakeRejected("bad_exo_calibration", f"{path.name}: {damage}") from damage
    found: dict[str, list[tuple[bool, ExoCalibration]]] = {}
    refused: dict[str, str] = {}
    for row in rows:
        try:
            calibration = (_is_whole(row), _exo_calibration(row))
            found.setdefault(row["cam_uid"], []).append(calibration)
        except (KeyError, ValueError) as fault:
            refused[row.get("cam_uid", "?")] = f"{path.name}: {fault}"
    calibrations = {}
    for cam_id, candidates in found.items():
        best = sorted(candidates, key=lambda candidate: not candidate[0])
        if best[0][0] or len(best) == 1:
            calibrations[cam_id] = best[0][1]
        else:
            refused[cam_id] = f"{path.name}: {len(best)} rows, each for a part of the video"
    return calibrations, refused


def read_ego_calibration(path: Path) -> EgoCalibration:
    """The rgb camera of the first line; it is the same in all lines of a take.

    Lenses for the 2880 x 2880 sensor become those of the 1408 x 1408 image; which one a file has
    shows in its centre. Rejects the take if the file is missing or odd."""
    if not path.is_file():
        raise TakeRejected("no_ego_calibration", f"no {path.name}")
    try:
        with path.open("rb") as file:
            cameras = orjson.loads(file.readline())["CameraCalibrations"]
        camera = next(camera for camera in cameras if camera["Label"] == "camera-rgb")
        return EgoCalibration(_ego_lens(camera["Projection"]), _device_from_cam(camera))
    except StopIteration as missing:
        raise TakeRejected("bad_ego_calibration", f"{path.name}: no camera-rgb") from missing
    except (KeyError, TypeError, ValueError) as damage:
        raise TakeRejected("bad_ego_calibration", f"{path.name}: {damage!r}") from damage


def calibration_times_us(path: Path) -> Float64[np.ndarray, "n"]:
    """Device time of every line of online_calibration.jsonl; empty if there is no file."""
    if not path.is_file():
        return np.empty(0)
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        return np.array([orjson.loads(line)["tracking_timestamp_us"] for line in lines], float)
    except (KeyError, TypeError, ValueError) as damage:
        raise TakeRejected("bad_ego_calibration", f"{path.name}: {damage!r}") from damage


def timesync_times_us(
    path: Path, cam_id: str, start: int, frame_count: int
) -> Float64[np.ndarray, "n"] | None:
    """Device time of every video frame: frame i is row start + i; NaN where the cell is empty.

    None if there is no file or no column of the camera's rgb stream."""
    if not path.is_file():
        return None
    names = _csv_names(path, "bad_timesync")
    wanted = [name for name in names if "214-1" in name and "capture_timestamp_ns" in name]
    column = next((name for name in wanted if name.strip().startswith(f"{cam_id}_")), None)
    if column is None:
        return None
    times_us = _csv_columns(path, [column], "bad_timesync")[:, 0] / 1e3
    if not 0 <= start <= start + frame_count <= len(times_us):
        detail = f"rows {start} to {start + frame_count}, but it has {len(times_us)}"
        raise TakeRejected("bad_timesync", f"{path.name}: {detail}")
    return times_us[start : start + frame_count]


def trajectory_poses(
    path: Path, times_us: Float64[np.ndarray, "n"], device_from_cam: Float64[np.ndarray, "4 4"]
) -> Float64[np.ndarray, "n 4 4"]:
    """world_from_cam at each time, from the nearest trajectory row; NaN where none is near."""
    names = {name.strip(): name for name in _csv_names(path, "bad_trajectory")}
    wanted = ("tracking_timestamp_us", *_pose_names("device"))
    missing = [name for name in wanted if name not in names]
    if missing:
        raise TakeRejected("bad_trajectory", f"{path.name}: no columns {', '.join(missing)}")
    rows = _csv_columns(path, [names[name] for name in wanted], "bad_trajectory")
    rows = rows[np.isfinite(rows).all(axis=1)]
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    poses = np.full((len(times_us), 4, 4), np.nan)
    if not len(rows):
        return poses
    nearest = _nearest(rows[:, 0], times_us)
    near = np.abs(rows[nearest, 0] - times_us) <= NEAREST_POSE_US  # False for NaN times
    numbers = torch.from_numpy(rows[nearest[near], 1:])
    try:
        world_from_device = rigid_from_quaternion(numbers[:, 3:], numbers[:, :3])
    except CameraError as fault:
        raise TakeRejected("bad_trajectory", f"{path.name}: {fault}") from fault
    poses[near] = compose(world_from_device, torch.from_numpy(device_from_cam)).numpy()
    return poses


def _nearest(sorted_us: Float64[np.ndarray, "m"], times_us: Float64[np.ndarray, "n"]) -> np.ndarray:
    after = np.clip(np.searchsorted(sorted_us, times_us), 1, max(1, len(sorted_us) - 1))
    after = np.minimum(after, len(sorted_us) - 1)
    before = np.maximum(after - 1, 0)
    closer = np.abs(times_us - sorted_us[before]) <= np.abs(sorted_us[after] - times_us)
    return np.where(closer, before, after)


def _stripped(row: Mapping[str | None, Any]) -> dict[str, str]:
    # A row with too many cells has them under None, one with too few has None for a cell.
    return {name.strip(): (cell or "").strip() for name, cell in row.items() if name is not None}


def _is_whole(row: Mapping[str, str]) -> bool:
    return row["start_frame_idx"] == row["end_frame_idx"] == "-1"


def _exo_calibration(row: Mapping[str, str]) -> ExoCalibration:
    if int(row["quality"]) != 1:
        raise ValueError(f"quality {row['quality']}")
    if row["intrinsics_type"] != "KANNALABRANDTK3":
        raise ValueError(f"intrinsics_type {row['intrinsics_type']}")
    fx, fy, cx, cy, *bend = (float(row[f"intrinsics_{place}"]) for place in range(8))
    hw = (int(row["image_height"]), int(row["image_width"]))
    lens = cast(KannalaBrandt, make_lens("kannala_brandt", (fx, fy, cx + 0.5, cy + 0.5, *bend), hw))
    numbers = torch.tensor([[float(row[name]) for name in _pose_names("cam")]], dtype=torch.float64)
    return ExoCalibration(lens, rigid_from_quaternion(numbers[:, 3:], numbers[:, :3]).numpy())


def _pose_names(frame: str) -> tuple[str, ...]:
    return tuple(f"{part}_world_{frame}" for part in ("tx", "ty", "tz", "qx", "qy", "qz", "qw"))


def _ego_lens(projection: Mapping[str, Any]) -> Fisheye624:
    if projection["Name"] != "FisheyeRadTanThinPrism":
        raise ValueError(f"projection {projection['Name']}")
    focal_px, cx, cy, *bend = projection["Params"]
    for hw in (ARIA_CALIBRATED_HW, _ARIA_VIDEO_HW):
        if max(abs(cx / hw[1] - 0.5), abs(cy / hw[0] - 0.5)) < _CENTRE_SLACK:
            numbers = (focal_px, focal_px, cx + 0.5, cy + 0.5, *bend)
            lens = cast(Fisheye624, make_lens("fisheye624", numbers, hw))
            return fisheye624_2880_to_1408(lens) if hw == ARIA_CALIBRATED_HW else lens
    raise ValueError(f"centre ({cx}, {cy}) is near the middle of no known image size")


def _device_from_cam(camera: Mapping[str, Any]) -> Float64[np.ndarray, "4 4"]:
    place = camera["T_Device_Camera"]
    w, (x, y, z) = place["UnitQuaternion"]
    quaternion = torch.tensor([x, y, z, w], dtype=torch.float64)
    translation = torch.tensor(place["Translation"], dtype=torch.float64)
    return rigid_from_quaternion(quaternion, translation).numpy()


def _csv_names(path: Path, reason: str) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])
    except (csv.Error, UnicodeDecodeError) as damage:
        raise TakeRejected(reason, f"{path.name}: {damage}") from damage


def _csv_columns(path: Path, names: list[str], reason: str) -> Float64[np.ndarray, "n m"]:
    options = pcsv.ConvertOptions(
        include_columns=names, column_types={name: pa.float64() for name in names}
    )
    try:
        # One thread: takes are already read side by side.
        table = pcsv.read_csv(path, pcsv.ReadOptions(use_threads=False), None, options)
    except pa.ArrowInvalid as damage:
        raise TakeRejected(reason, f"{path.name}: {damage}") from damage
    return np.stack([column.to_numpy() for column in table.columns], axis=1)
