"""A small root of Ego-Exo4D, written by hand from the dataset's documentation, with its traits."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

FRAMES = 50
START_ROW = 7
EGO_HW, EXO_HW = (64, 64), (36, 64)
FRAME_US, FIRST_US = 33_328, 149_202_610
EXO_BEND = (0.036902, 0.057131, -0.057154, 0.018458)
# f, cx, cy, k0..k5, p0, p1, s0..s3 of a real Aria, for its 2880 x 2880 sensor.
ARIA_PARAMS = (
    *(1220.01943882295, 1461.091249679011, 1447.087207987354),
    *(0.411035882200732, -0.456468282322496, 0.038303075146701),
    *(1.298336637403988, -1.770471163632234, 0.654993502244781),
    *(-7.9203062637e-05, 4.4207001233e-05),
    *(-0.000587384169463, 0.00056439365081, 0.000515794638327, 0.000235027249453),
)
ARIA_TRANSLATION = (-0.004005868551322, -0.011869797002275, -0.004418150827837)
ARIA_QUATERNION_WXYZ = (0.941575995616059, 0.332483969508643, 0.03396860324855, 0.041655593774964)
CATEGORY_IDS = {
    "bike": (4001, 4000, "Bike Repair"),
    "basketball": (6002, 6000, "Basketball"),
    "covid": (2001, 2000, "Health"),
    "cpr": (2005, 2000, "Health"),
    "cooking": (1001, 1000, "Cooking"),
}


@cache
def mp4(hw: tuple[int, int], frames: int, fps: int = 30) -> bytes:
    """A small h264 video."""
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *hw, "yuv420p"
        for index in range(frames):
            image = np.full((*hw, 3), index * 4 % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def rigid(rotation: Rotation, translation: Any) -> np.ndarray:
    """A 4 x 4 pose."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.as_matrix(), translation
    return pose


def world_from_device(time_us: float) -> tuple[Rotation, np.ndarray]:
    """Where the headset is: it turns and drifts slowly."""
    seconds = (time_us - FIRST_US) / 1e6
    rotation = Rotation.from_rotvec([0.3 + 0.2 * seconds, 1.2, 0.1 * seconds])
    return rotation, np.array([0.1 * seconds, 0.4, 1.6 - 0.05 * seconds])


DEVICE_FROM_RGB = rigid(
    Rotation.from_quat([*ARIA_QUATERNION_WXYZ[1:], ARIA_QUATERNION_WXYZ[0]]), ARIA_TRANSLATION
)


@dataclass
class TakeFolder:
    """One take as plain dictionaries; a test changes them before `write`."""

    root: Path
    name: str
    category: str = "bike"
    split: str = "train"
    cams: tuple[str, ...] = ("cam01", "cam02", "cam03", "cam04")
    ego: str = "aria01"
    frames: int = FRAMES
    sources: str = "AB"
    seed: int = 0
    entry: dict[str, Any] = field(default_factory=dict)
    camera_pose: dict[str, Any] = field(default_factory=dict)
    gopros: list[dict[str, Any]] = field(default_factory=list)
    timesync: list[dict[str, Any]] = field(default_factory=list)
    calibration_lines: list[dict[str, Any]] = field(default_factory=list)
    trajectory: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.uid = f"uid-{self.name}"
        self.capture = self.name.rsplit("_", 1)[0]
        self.folder = self.root / "takes" / self.name
        self.frame_us = [FIRST_US + FRAME_US * index for index in range(self.frames)]
        self._list_trajectory()
        self._list_cameras()
        self._list_entry()

    @property
    def videos(self) -> Path:
        """Folder of the downscaled videos."""
        return self.folder / "frame_aligned_videos" / "downscaled" / "448"

    @property
    def camera_pose_path(self) -> Path:
        """The take's annotation."""
        folder = self.root / "annotations" / "ego_pose" / self.split / "camera_pose"
        return folder / f"{self.uid}.json"

    def focal_px(self, cam_id: str) -> float:
        """Raw focal length of an exo camera at 3840 x 2160."""
        return 1750.25 + 3.5 * self.cams.index(cam_id)

    def exo_k(self, cam_id: str) -> np.ndarray:
        """Raw K of an exo camera at 3840 x 2160, integer pixel centres."""
        focal_px = self.focal_px(cam_id)
        return np.array([[focal_px, 0, 1920.0], [0, focal_px, 1080.0], [0, 0, 1]])

    def cam_from_world(self, cam_id: str) -> np.ndarray:
        """Extrinsics of an exo camera."""
        turn = 0.5 * self.cams.index(cam_id) + 0.1 * self.seed
        return rigid(Rotation.from_rotvec([0.2, turn, 0.1]), [0.3 * turn, 0.2, 2.5])

    def raw_from_world(self, frame: int) -> np.ndarray:
        """Extrinsics of the sideways ego camera, from the trajectory's row nearest to the frame."""
        row = min(self.row_us, key=lambda row_us: abs(row_us - self.frame_us[frame]))
        return np.linalg.inv(rigid(*world_from_device(row)) @ DEVICE_FROM_RGB)

    def _list_trajectory(self) -> None:
        self.row_us = range(FIRST_US - 4300, self.frame_us[-1] + 6000, 1000)
        for row_us in self.row_us:
            rotation, translation = world_from_device(row_us)
            row = {"graph_uid": "g", "tracking_timestamp_us": row_us, "utc_timestamp_ns": -1}
            row |= zip_pose("device", translation, rotation)
            self.trajectory.append(row | {"quality_score": 0.5, "geo_available": 0})
        camera = {
            "Label": "camera-rgb",
            "Projection": {"Name": "FisheyeRadTanThinPrism", "Params": list(ARIA_PARAMS)},
            "T_Device_Camera": {
                "Translation": list(ARIA_TRANSLATION),
                "UnitQuaternion": [ARIA_QUATERNION_WXYZ[0], list(ARIA_QUATERNION_WXYZ[1:])],
            },
        }
        other = {"Label": "camera-slam-left"}
        self.calibration_lines += [
            {"tracking_timestamp_us": time_us, "CameraCalibrations": [other, camera]}
            for time_us in self.frame_us
        ]
        for index in range(START_ROW + self.frames + 5):
            time_ns = (FIRST_US + FRAME_US * (index - START_ROW)) * 1000
            self.timesync.append(
                {
                    f"{self.ego}_1201-1_capture_timestamp_ns": time_ns + 999,
                    f"{self.ego}_214-1_capture_timestamp_ns": time_ns,
                    f"{self.ego}_214-1_frame_number": index,
                    "cam01_pts": "" if index < 3 else index,
                }
            )

    def _list_cameras(self) -> None:
        self.camera_pose["metadata"] = {"take_name": self.name, "take_uid": self.uid}
        for cam_id in self.cams:
            k, bend = self.exo_k(cam_id), np.array(EXO_BEND)
            undistorted = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
                k, bend, (3840, 2160), np.eye(3), balance=0.8
            )
            pose = self.cam_from_world(cam_id)
            self.camera_pose[cam_id] = {
                "camera_intrinsics": undistorted.tolist(),
                "camera_extrinsics": pose[:3].tolist(),
                "distortion_coeffs": list(EXO_BEND),
            }
            self.gopros.append(self._gopro_row(cam_id, np.linalg.inv(pose)))
        self.camera_pose[self.ego] = {
            "camera_intrinsics": [[150, 0, 255.5], [0, 150, 255.5], [0, 0, 1]],
            "camera_extrinsics": {
                str(frame): self.raw_from_world(frame)[:3].tolist()
                for frame in range(self.frames - 2)
            },
        }

    def _gopro_row(self, cam_id: str, world_from_cam: np.ndarray) -> dict[str, Any]:
        rotation = Rotation.from_matrix(world_from_cam[:3, :3])
        focal_px = self.focal_px(cam_id)
        numbers = (focal_px, focal_px, 1920.0, 1080.0, *EXO_BEND)
        row = {"cam_uid": f" {cam_id}", "graph_uid": "g"}
        row |= zip_pose("cam", world_from_cam[:3, 3], rotation)
        row |= {"image_width": " 3840", "image_height": 2160}
        row |= {"intrinsics_type": "KANNALABRANDTK3 "}
        row |= {f"intrinsics_{place}": number for place, number in enumerate(numbers)}
        return row | {"start_frame_idx": -1, "end_frame_idx": -1, "quality": " 1"}

    def _list_entry(self) -> None:
        task_id, parent_id, parent_name = CATEGORY_IDS[self.category]
        videos: dict[str, Any] = {
            self.ego: {
                name: aligned(self.ego, name, f"{self.ego}_{stream}.mp4")
                for name, stream in (("et", "211-1"), ("slam-left", "1201-1"), ("rgb", "214-1"))
            }
        }
        videos |= {cam_id: {"0": aligned(cam_id, "0", f"{cam_id}.mp4")} for cam_id in self.cams}
        videos["collage"] = {"0": aligned("collage", "0", "x.mp4") | {"is_collage": True}}
        videos["best_exo"] = {"0": aligned("best_exo", "0", "x.mp4") | {"relative_path": None}}
        cameras = [{"cam_id": self.ego, "is_ego": "True", "device_type": "aria"}]
        cameras += [{"cam_id": cam_id, "is_ego": False} for cam_id in self.cams]
        cameras += [{"cam_id": "mobile", "is_ego": False}, {"cam_id": "moblie", "is_ego": False}]
        self.entry |= {
            "root_dir": f"takes/{self.name}",
            "take_name": self.name,
            "take_uid": self.uid,
            "participant_uid": 387,
            "is_dropped": False,
            "task_id": task_id,
            "parent_task_id": parent_id,
            "parent_task_name": parent_name,
            "best_exo": None,
            "task_start_sec": None,
            "task_end_sec": None,
            "timesync_start_idx": START_ROW,
            "timesync_end_idx": START_ROW + self.frames,
            "frame_aligned_videos": videos,
            "capture": {"capture_name": self.capture, "cameras": cameras},
        }

    def write(self) -> None:
        """The take's files."""
        self.videos.mkdir(parents=True, exist_ok=True)
        trajectory = self.folder / "trajectory"
        trajectory.mkdir(exist_ok=True)
        (self.videos / f"{self.ego}_214-1.mp4").write_bytes(mp4(EGO_HW, self.frames))
        for cam_id in self.cams:
            (self.videos / f"{cam_id}.mp4").write_bytes(mp4(EXO_HW, self.frames))
        if "A" in self.sources:
            self.camera_pose_path.parent.mkdir(parents=True, exist_ok=True)
            self.camera_pose_path.write_text(json.dumps(self.camera_pose))
        if "B" in self.sources:
            write_csv(trajectory / "closed_loop_trajectory.csv", self.trajectory)
            write_csv(self.root / "captures" / self.capture / "timesync.csv", self.timesync)
        write_csv(trajectory / "gopro_calibs.csv", self.gopros)
        lines = "\n".join(json.dumps(line) for line in self.calibration_lines)
        (trajectory / "online_calibration.jsonl").write_text(lines)


@dataclass
class Root:
    """A root with takes; `write` writes what is not written yet."""

    path: Path
    takes: list[TakeFolder] = field(default_factory=list)

    def add(self, name: str, **options: Any) -> TakeFolder:
        """Another take, on disk already; what is changed later needs its own write."""
        take = TakeFolder(self.path, name, seed=len(self.takes), **options)
        take.write()
        self.takes.append(take)
        return take

    def write(self) -> Path:
        """takes.json and splits.json of all takes."""
        (self.path / "annotations").mkdir(parents=True, exist_ok=True)
        (self.path / "takes.json").write_text(json.dumps([take.entry for take in self.takes]))
        splits = {take.uid: take.split for take in self.takes}
        by_split: dict[str, list[str]] = {}
        for uid, split in splits.items():
            by_split.setdefault(split, []).append(uid)
        both = {"take_uid_to_split": splits, "split_to_take_uids": by_split, "ds": "20240404"}
        (self.path / "annotations" / "splits.json").write_text(json.dumps(both))
        return self.path


def aligned(cam_id: str, stream: str, file: str) -> dict[str, Any]:
    """One stream's entry of frame_aligned_videos."""
    path = f"frame_aligned_videos/{file}"
    return {"cam_id": cam_id, "stream_id": stream, "is_collage": False, "relative_path": path}


def zip_pose(frame: str, translation: np.ndarray, rotation: Rotation) -> dict[str, float]:
    """Columns of a pose."""
    names = [f"t{axis}_world_{frame}" for axis in "xyz"]
    names += [f"q{axis}_world_{frame}" for axis in "xyzw"]
    return dict(zip(names, [*map(float, translation), *rotation.as_quat().tolist()], strict=True))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows under the first row's columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """An empty root to add takes to."""
    return Root(tmp_path / "egoexo")


@pytest.fixture
def make_mp4() -> Callable[..., bytes]:
    """make_mp4((rows, columns), frames, fps=30): the bytes of a small video."""
    return mp4
