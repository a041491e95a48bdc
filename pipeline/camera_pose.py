"""Ego-Exo4D's annotation camera_pose/<take_uid>.json: poses of all cameras, and undistorted K.

Extrinsics are cam_from_world, 3 x 4, metres, OpenCV axes; the ego camera's are in the sensor's own
(sideways) orientation, one a frame. The ego K is a virtual pinhole's and says nothing of the video;
an exo K is that of undistorted images, from which the raw focal length is found again.
"""

import struct
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from einops import rearrange
from jaxtyping import Float64

from exo2ego.geometry.camera import (
    ORTHONORMAL_TOLERANCE,
    CameraError,
    check_rigid,
)
from exo2ego.geometry.fit import UNDISTORT_BALANCE, undistorted_pinhole
from exo2ego.geometry.lenses import KannalaBrandt
from pipeline.rejects import TakeRejected
from pipeline.takes import SPLITS

RAW_LANDSCAPE_HW, RAW_PORTRAIT_HW = (2160, 3840), (3840, 2160)
"""Rows and columns of the GoPro images that the undistorted K was made for."""
_RAW_PER_UNDISTORTED = (1.35, 1.45)
"""Where the search starts: 1.42 in the released files."""
_SECANTS, _FOCAL_SLACK_PX, _ROUND_TRIP_PX = 20, 1e-7, 0.01


def read_camera_pose(root: Path, take_uid: str) -> Mapping[str, Any] | None:
    """The annotation's cameras by id; None if there is no file. Rejects another take's file."""
    for split in SPLITS:
        path = root / f"annotations/ego_pose/{split}/camera_pose/{take_uid}.json"
        if path.is_file():
            return _cameras(path, take_uid)
    return None


def exo_pose(cameras: Mapping[str, Any], cam_id: str) -> Float64[np.ndarray, "1 4 4"]:
    """The exo camera's fixed pose world_from_cam. Rejects the take if it is not rigid."""
    extrinsics = _numbers(_field(cameras, cam_id, "camera_extrinsics"), (3, 4), cam_id)
    return _world_from_cam(rearrange(extrinsics, "i j -> 1 i j"), cam_id)


def ego_poses(
    cameras: Mapping[str, Any], cam_id: str, frame_count: int
) -> Float64[np.ndarray, "n 4 4"]:
    """world_from_cam of the sideways ego camera for every video frame; NaN where none is given.

    The released files end two frames before the video, and may have gaps."""
    by_frame = _field(cameras, cam_id, "camera_extrinsics")
    if (
        not isinstance(by_frame, dict)
        or "" in by_frame
        or not "".join(["0", *by_frame]).isdecimal()
    ):
        raise TakeRejected("bad_camera_pose", f"{cam_id}: extrinsics are not keyed by frame")
    poses = np.full((frame_count, 4, 4), np.nan)
    if not by_frame:
        return poses
    frames = list(map(int, by_frame))
    if max(frames) >= frame_count:
        detail = f"{cam_id}: pose of frame {max(frames)}, but the video has {frame_count} frames"
        raise TakeRejected("video_shorter_than_poses", detail)
    extrinsics = _matrices(list(by_frame.values()), cam_id)
    poses[frames] = _world_from_cam(extrinsics, cam_id)
    return poses


def exo_lens(cameras: Mapping[str, Any], cam_id: str, portrait: bool) -> KannalaBrandt:
    """The raw fisheye lens behind an exo camera's undistorted K, for native image size.

    Choice: the centre is the image's middle, as in every released file; only the focal length
    is sought, to a ten-thousandth of a pixel."""
    undistorted = _numbers(_field(cameras, cam_id, "camera_intrinsics"), (3, 3), cam_id)
    bend = _numbers(_field(cameras, cam_id, "distortion_coeffs"), (4,), cam_id)
    hw = RAW_PORTRAIT_HW if portrait else RAW_LANDSCAPE_HW
    off_px = np.abs(undistorted[:2, 2] - np.array([hw[1] / 2, hw[0] / 2])).max()
    if off_px > 1:
        detail = f"{cam_id}: undistorted centre {undistorted[:2, 2].tolist()} in an image of {hw}"
        raise TakeRejected("bad_exo_calibration", detail)
    return _raw_lens(undistorted[0, 0], tuple(bend.tolist()), hw, cam_id)


def undistorted_focal(lens: KannalaBrandt, balance: float) -> float:
    """The focal length across that OpenCV gives to the undistorted image of this lens."""
    return undistorted_pinhole(lens, balance).fx


def _raw_lens(
    undistorted_px: float, bend: tuple[float, ...], hw: tuple[int, int], cam_id: str
) -> KannalaBrandt:
    def lens_of(focal_px: float) -> KannalaBrandt:
        middle = (hw[1] / 2 + 0.5, hw[0] / 2 + 0.5)
        return KannalaBrandt(focal_px, focal_px, *middle, *bend, hw=hw)

    # The raw focal length is nearly proportional to the undistorted one: secants meet it at once.
    last, focal_px = (factor * undistorted_px for factor in _RAW_PER_UNDISTORTED)
    try:
        last_miss = undistorted_focal(lens_of(last), UNDISTORT_BALANCE) - undistorted_px
        for _ in range(_SECANTS):
            miss = undistorted_focal(lens_of(focal_px), UNDISTORT_BALANCE) - undistorted_px
            if abs(miss) < _FOCAL_SLACK_PX or miss == last_miss:
                break
            step = miss * (focal_px - last) / (miss - last_miss)
            last, last_miss, focal_px = focal_px, miss, focal_px - step
        lens = lens_of(round(focal_px, 4))
        miss = undistorted_focal(lens, UNDISTORT_BALANCE) - undistorted_px
    except CameraError as fault:
        raise TakeRejected("bad_exo_calibration", f"{cam_id}: {fault}") from fault
    if not abs(miss) < _ROUND_TRIP_PX:
        detail = f"{cam_id}: no raw focal length gives the undistorted {undistorted_px:.2f} px"
        raise TakeRejected("bad_exo_calibration", detail)
    return lens


def _cameras(path: Path, take_uid: str) -> Mapping[str, Any]:
    try:
        cameras = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as damage:
        raise TakeRejected("bad_camera_pose", f"{path.name}: {damage}") from damage
    about = cameras.get("metadata") if isinstance(cameras, dict) else None
    if not isinstance(about, dict):
        raise TakeRejected("bad_camera_pose", f"{path.name}: no metadata")
    if about.get("take_uid") != take_uid:
        detail = f"{path.name}: metadata.take_uid is {about.get('take_uid')}"
        raise TakeRejected("camera_pose_of_other_take", detail)
    return {name: camera for name, camera in cameras.items() if name != "metadata"}


def _field(cameras: Mapping[str, Any], cam_id: str, name: str) -> Any:
    camera = cameras.get(cam_id)
    if not isinstance(camera, dict) or name not in camera:
        raise TakeRejected("bad_camera_pose", f"{cam_id}: no {name}")
    return camera[name]


def _numbers(value: Any, shape: tuple[int, ...], cam_id: str) -> Float64[np.ndarray, "..."]:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as damage:
        raise TakeRejected("bad_camera_pose", f"{cam_id}: {damage}") from damage
    if numbers.shape != shape:
        raise TakeRejected("bad_camera_pose", f"{cam_id}: shape {numbers.shape}, not {shape}")
    return numbers


def _matrices(values: list[Any], cam_id: str) -> Float64[np.ndarray, "n 3 4"]:
    # numpy takes twice as long to find out by itself how deep the lists are, and longer than
    # `struct` to take numbers one by one
    try:
        rows = list(chain.from_iterable(values))
        if set(map(len, values)) | {3} == {3} and set(map(len, rows)) | {4} == {4}:
            packed = struct.pack(f"{len(rows) * 4}d", *chain.from_iterable(rows))
            return rearrange(np.frombuffer(packed), "(n i j) -> n i j", i=3, j=4)
    except (TypeError, ValueError, struct.error) as damage:
        raise TakeRejected("bad_camera_pose", f"{cam_id}: {damage}") from damage
    raise TakeRejected("bad_camera_pose", f"{cam_id}: a pose is not of 3 x 4 numbers")


def _are_plainly_rigid(numbers: Float64[np.ndarray, "3 4 n"]) -> bool:
    """False if `check_rigid`, which costs more, has to look; NaN compares as false."""
    x, y, z, moved = (numbers[:, column] for column in range(4))
    skew = [_dot(x, y), _dot(y, z), _dot(z, x), *(_dot(axis, axis) - 1 for axis in (x, y, z))]
    cross = [x[i] * y[j] - x[j] * y[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    close = np.abs(skew).max(initial=0.0) < ORTHONORMAL_TOLERANCE / 2
    return bool(close and (_dot(cross, z) > 0).all() and np.isfinite(moved).all())


def _dot(a: Any, b: Any) -> Float64[np.ndarray, "n"]:
    """Products of vectors whose three parts are arrays: no BLAS, and no loop over threes."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _world_from_cam(
    extrinsics: Float64[np.ndarray, "n 3 4"], cam_id: str
) -> Float64[np.ndarray, "n 4 4"]:
    numbers = np.ascontiguousarray(rearrange(extrinsics, "n row column -> row column n"))
    if not _are_plainly_rigid(numbers):
        cam_from_world = np.zeros((len(extrinsics), 4, 4))
        cam_from_world[:, :3], cam_from_world[:, 3, 3] = extrinsics, 1
        try:
            check_rigid(torch.from_numpy(cam_from_world), cam_id)
        except CameraError as fault:
            raise TakeRejected("bad_camera_pose", str(fault)) from fault
    world_from_cam = np.zeros((len(extrinsics), 4, 4))
    world_from_cam[:, :3, :3] = rearrange(extrinsics[:, :, :3], "n row column -> n column row")
    for axis in range(3):
        world_from_cam[:, axis, 3] = -_dot(numbers[:, axis], numbers[:, 3])
    world_from_cam[:, 3, 3] = 1
    return world_from_cam
