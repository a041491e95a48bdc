"""The camera files of a take: camera_pose, gopro_calibs, trajectories, calibration, timesync."""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float64
from torch import Tensor

from exo2ego.geometry.camera import compose, invert_rigid
from pipeline.simulate.clock import FRAME_US, ROWS_AFTER, TakeClock
from pipeline.simulate.entries import ARIA_STREAMS
from pipeline.simulate.rig import (
    ARIA_RGB_METRES,
    ARIA_RGB_QUATERNION_XYZW,
    GOPRO_BEND,
    GOPRO_CENTRE,
    GOPRO_HW,
    Rig,
    quaternions_xyzw,
    raw_from_upright,
    undistorted_focal_px,
    world_from_device,
)
from pipeline.simulate.traits import TakePlan

POSES_SHORT = 2
"""camera_pose has so many frames less than the video."""
EGO_VIRTUAL_K = [[150.0, 0.0, 255.5], [0.0, 150.0, 255.5], [0.0, 0.0, 1.0]]
"""What camera_pose says of every ego camera: an undistorted 512 x 512 image, not the video."""
SLAM_LEFT = (
    241.746429443359375, 320.628753662109375, 242.64068603515625, -0.02694184333086,
    0.103186674416065, -0.072545729577541, 0.01231786981225, 0.001513113966211,
    -0.000479895825264, 0.001933769090101, 0.001900697243399, -0.003100696252658,
    -0.000324406602885, -0.002613446209579, 0.000016337084161,
)  # fmt: skip
SLAM_RIGHT = (
    242.03497314453125, 319.096771240234375, 240.998748779296875, -0.026240244507789,
    0.100680634379386, -0.069463707506656, 0.010857532732188, 0.001745530636981,
    -0.000472591840662, 0.000773021602071, 0.000754639913793, -0.001682649832218,
    0.000092571652203, -0.000254533981205, -0.000018594642824,
)  # fmt: skip
SLAM_RIGHT_XYZW = (0.628343677022242, -0.001549350459298, 0.039854380307449, 0.776912769511243)
SLAM_RIGHT_METRES = (0.00592838378065, -0.107945153651046, -0.085453138604566)
"""The two grey cameras of the same example file as rig.ARIA_RGB."""

POSE_COLUMNS = ("tx", "ty", "tz", "qx", "qy", "qz", "qw")
GOPRO_HEADER = ",".join(
    ["cam_uid", "graph_uid"]
    + [f"{column}_world_cam" for column in POSE_COLUMNS]
    + ["image_width", "image_height", "intrinsics_type"]
    + [f"intrinsics_{number}" for number in range(8)]
    + ["start_frame_idx", "end_frame_idx", "quality"]
)
TRAJECTORY_HEADER = ",".join(
    ["graph_uid", "tracking_timestamp_us", "utc_timestamp_ns"]
    + [f"{column}_world_device" for column in POSE_COLUMNS]
    + [f"device_linear_velocity_{axis}_device" for axis in "xyz"]
    + [f"angular_velocity_{axis}_device" for axis in "xyz"]
    + [f"gravity_{axis}_world" for axis in "xyz"]
    + ["quality_score", "geo_available"]
    + [f"{column}_ecef_device" for column in POSE_COLUMNS]
)
UTC_NS = 1_686_767_222_002_923_694
"""Wall-clock time at device time 0; any would do."""


def camera_pose(
    plan: TakePlan, rig: Rig, room_from_eye: Float64[Tensor, "f 4 4"]
) -> dict[str, Any]:
    """camera_pose/<take_uid>.json: world -> camera, the ego camera lying on its side."""
    content: dict[str, Any] = {"metadata": {"take_name": plan.take_name, "take_uid": plan.take_uid}}
    for exo in rig.exos:
        if exo.is_localised:
            focal = undistorted_focal_px(exo.focal_px)
            world_from_cam = compose(rig.world_from_room, exo.room_from_cam)
            content[exo.cam_id] = {
                "camera_intrinsics": [
                    [focal, 0.0, GOPRO_CENTRE[0]], [0.0, focal, GOPRO_CENTRE[1]], [0.0, 0.0, 1.0],
                ],
                "camera_extrinsics": _extrinsics(world_from_cam),
                "distortion_coeffs": list(GOPRO_BEND),
            }  # fmt: skip
    world_from_raw = raw_from_upright(compose(rig.world_from_room, room_from_eye))
    content[plan.ego_id] = {
        "camera_intrinsics": EGO_VIRTUAL_K,
        "camera_extrinsics": {
            str(frame): _extrinsics(world_from_raw[frame])
            for frame in range(plan.frames - POSES_SHORT)
        },
    }
    return content


def _extrinsics(world_from_cam: Float64[Tensor, "4 4"]) -> list[list[float]]:
    rows = invert_rigid(world_from_cam)[:3].tolist()
    return [[round(value, 12) for value in row] for row in rows]


def gopro_calibs(plan: TakePlan, rig: Rig) -> str:
    """trajectory/gopro_calibs.csv: raw lenses and camera -> world poses."""
    poses = torch.stack([compose(rig.world_from_room, exo.room_from_cam) for exo in rig.exos])
    lines = [GOPRO_HEADER]
    for exo, pose in zip(rig.exos, _pose_cells(poses, 6), strict=True):
        numbers = (exo.focal_px, exo.focal_px, *GOPRO_CENTRE, *GOPRO_BEND)
        lens = ",".join(f"{number:.6f}" for number in numbers)
        size = f"{GOPRO_HW[1]},{GOPRO_HW[0]},KANNALABRANDTK3"
        # The real files have a blank before the first cell.
        start = f" {exo.cam_id},{plan.timesync_uid},{pose}"
        lines.append(f"{start},{size},{lens},-1,-1,{int(exo.is_localised)}")
    return "\n".join(lines) + "\n"


def closed_loop_trajectory(
    plan: TakePlan, rig: Rig, clock: TakeClock, room_from_eye: Float64[Tensor, "r 4 4"]
) -> str:
    """trajectory/closed_loop_trajectory.csv: device -> world, a row a millisecond."""
    poses = world_from_device(compose(rig.world_from_room, room_from_eye))
    speeds = _speeds(poses)
    lines = [TRAJECTORY_HEADER]
    fixed = "0.000000,0.000000,-9.810000,1.0,0,0.000000,0.000000,0.000000,0.0,0.0,0.0,1.0"
    for time, pose, speed in zip(clock.row_us, _pose_cells(poses, 9), speeds, strict=True):
        stamps = f"{plan.timesync_uid},{time},{UTC_NS + 1000 * int(time)}"
        lines.append(f"{stamps},{pose},{','.join(f'{value:.6f}' for value in speed)},{fixed}")
    return "\n".join(lines) + "\n"


def _pose_cells(a_from_b: Float64[Tensor, "n 4 4"], digits: int) -> list[str]:
    """Translation to the micrometre and quaternion, as cells of a CSV row."""
    poses = a_from_b.numpy()
    turns = quaternions_xyzw(poses[:, :3, :3])
    return [
        ",".join([*(f"{v:.6f}" for v in place), *(f"{v:.{digits}f}" for v in quaternion)])
        for place, quaternion in zip(poses[:, :3, 3].tolist(), turns.tolist(), strict=True)
    ]


def _speeds(world_from_device: Float64[Tensor, "r 4 4"]) -> list[list[float]]:
    """Linear and angular velocity in the device's frame, per second, from row to row."""
    poses = world_from_device.numpy()
    step = np.gradient(poses, 1e-3, axis=0)
    back = rearrange(poses[:, :3, :3], "r i j -> r j i")
    linear = (back @ step[:, :3, 3:])[..., 0]
    spin = back @ step[:, :3, :3]
    angular = np.stack([spin[:, 2, 1], spin[:, 0, 2], spin[:, 1, 0]], axis=1)
    return np.concatenate([linear, angular], axis=1).tolist()


def online_calibration(rig: Rig, clock: TakeClock) -> list[dict[str, Any]]:
    """trajectory/online_calibration.jsonl: a line a frame, its rgb camera at 2880 x 2880."""
    identity = (0.0, 0.0, 0.0, 1.0)
    cameras = [
        _calibrated("camera-slam-left", SLAM_LEFT, identity, (0.0, 0.0, 0.0)),
        _calibrated("camera-slam-right", SLAM_RIGHT, SLAM_RIGHT_XYZW, SLAM_RIGHT_METRES),
        _calibrated("camera-rgb", rig.ego_params, ARIA_RGB_QUATERNION_XYZW, ARIA_RGB_METRES),
    ]
    return [
        {
            "utc_timestamp_ns": -1,
            "tracking_timestamp_us": int(time),
            "ImuCalibrations": [],
            "CameraCalibrations": cameras,
        }
        for time in clock.frame_us
    ]


def _calibrated(
    label: str,
    params: tuple[float, ...],
    quaternion_xyzw: tuple[float, ...],
    metres: tuple[float, ...],
) -> dict[str, Any]:
    x, y, z, w = quaternion_xyzw
    return {
        "Calibrated": True,
        "Projection": {
            "Params": list(params),
            "Description": "see FisheyeRadTanThinPrism.h",
            "Name": "FisheyeRadTanThinPrism",
        },
        "T_Device_Camera": {"Translation": list(metres), "UnitQuaternion": [w, [x, y, z]]},
        "SerialNumber": "",
        "Label": label,
    }


def timesync(plan: TakePlan, clock: TakeClock) -> str:
    """captures/<name>/timesync.csv: frame i of the take is row `first_row` + i.

    The glasses run before and after the take; the GoPros' cells are empty before they start.
    """
    streams = [f"{plan.ego_id}_{stream}" for stream in ARIA_STREAMS.values()]
    stamps, counts = ("capture_timestamp_ns", "frame_number"), ("pts", "frame_number")
    header = [f"{name}_{what}" for name in streams for what in stamps]
    header += [f"{name}_{what}" for name in plan.exo_ids for what in counts]
    lines = [",".join(header)]
    for row in range(plan.first_row + plan.frames + ROWS_AFTER):
        stamp = 1000 * (clock.first_us + FRAME_US * (row - plan.first_row))
        glasses = f"{stamp},{row}," * len(streams)
        started = row >= plan.first_row // 2
        gopros = [f"{1001 * row},{row}" if started else ","] * len(plan.exo_ids)
        lines.append(glasses + ",".join(gopros))
    return "\n".join(lines) + "\n"
