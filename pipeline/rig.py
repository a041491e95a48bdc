"""Any synchronised recording, told by a rig.json beside its videos. docs/rig.md shows it whole."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import torch
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from exo2ego.geometry.camera import check_rigid
from exo2ego.geometry.lenses import Lens, make_lens
from pipeline.cameras import choose_views, lens_of_video, synchronised_frames
from pipeline.dataset import Take, TakeEntry
from pipeline.rejects import TakeRejected
from pipeline.takes import is_inside
from pipeline.video import VideoFault, VideoHeader, probe
from stores.errors import UserFault
from stores.index import CameraRow
from stores.recipe import ClipRecipe

NAME = "rig.json"
_STRICT = ConfigDict(frozen=True, extra="forbid")
_CENTRE_PLACES = (2, 3)
"""Where every lens's parameters have the image centre."""
Row = tuple[float, float, float, float]
Matrix = tuple[Row, Row, Row, Row]


class RigFault(UserFault, ValueError):
    """A rig.json that is missing, or does not say what it must."""


class RigLens(BaseModel):
    """A lens as plain numbers."""

    model_config = _STRICT

    kind: Literal["pinhole", "kannala_brandt", "fisheye624"] = Field(description="see docs/rig.md")
    params: tuple[float, ...] = Field(description="focal lengths, centre, distortion, in pixels")
    hw: tuple[int, int] = Field(description="rows and columns that the numbers are for")
    pixel_centre: float = Field(
        description="where the first pixel's centre lies: 0.5, or 0 as OpenCV counts"
    )

    @model_validator(mode="after")
    def _is_a_lens(self) -> "RigLens":
        if self.pixel_centre not in (0, 0.5):
            raise ValueError(f"pixel_centre is {self.pixel_centre:g}, not 0.5 or 0")
        self.built(0)
        return self

    def built(self, quarter_turns_cw: int) -> Lens:
        """The lens with pixel centres at +0.5, its image turned. Raises CameraError if odd."""
        shift_px = 0.5 - self.pixel_centre
        params = [
            number + shift_px * (place in _CENTRE_PLACES)
            for place, number in enumerate(self.params)
        ]
        return make_lens(self.kind, params, self.hw, quarter_turns_cw)


class RigPose(BaseModel):
    """Where a camera stood: one of the three."""

    model_config = _STRICT

    world_from_cam: Matrix | None = Field(None, description="a camera that stands still")
    per_frame: str | None = Field(None, description="a .npy or .json file with one pose a frame")
    frames: dict[int, Matrix] | None = Field(None, description="poses by frame number")

    @model_validator(mode="after")
    def _is_one(self) -> "RigPose":
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(f"one of world_from_cam, per_frame, frames, not {given or 'none'}")
        fixed = {} if self.world_from_cam is None else {"": self.world_from_cam}
        for place, matrix in (fixed | (self.frames or {})).items():
            what = f"{given[0]} {place}".strip()
            check_rigid(torch.tensor(matrix, dtype=torch.float64), what)
        return self


class RigCamera(BaseModel):
    """One camera of a take."""

    model_config = _STRICT

    id: str = Field(description="its name, by which views are sorted and chosen", min_length=1)
    role: Literal["ego", "exo"] = Field(description="worn, or looking on")
    video: str | None = Field(description="path below rig.json's folder; null: an ego not filmed")
    lens: RigLens = Field(description="the lens of the recorded image")
    quarter_turns_cw: int = Field(
        0, ge=0, le=3, description="clockwise quarter turns from the lens's image to the video's"
    )
    pose: RigPose = Field(description="metres, OpenCV axes of the video's own picture")

    @model_validator(mode="after")
    def _can_be_used(self) -> "RigCamera":
        if self.video is None and self.role == "exo":
            raise ValueError(f"exo camera {self.id} has no video")
        if self.role == "exo" and self.pose.world_from_cam is None:
            raise ValueError(f"exo camera {self.id} must stand still: give world_from_cam")
        for path in (self.video, self.pose.per_frame):
            if path is not None and not is_inside(path):
                raise ValueError(f"{path!r} leads out of the rig's folder")
        return self


class RigTake(BaseModel):
    """One recording by cameras that run together: frame i of all is one instant."""

    model_config = _STRICT

    name: str = Field(description="its name; clips are called after it", min_length=1)
    category: str = Field(description="what is done, in any word", min_length=1)
    split: Literal["train", "val", "test"] = Field(description="what its clips are for")
    fps: float = Field(gt=0, description="frames a second of its videos")
    capture: str = Field("", description="what it was cut from, for checks of split leakage")
    participant: str = Field("", description="who wore the ego camera")
    cameras: tuple[RigCamera, ...] = Field(description="one ego camera and the exo ones")

    @model_validator(mode="after")
    def _can_be_used(self) -> "RigTake":
        ids = [camera.id for camera in self.cameras]
        egos = [camera for camera in self.cameras if camera.role == "ego"]
        if len(set(ids)) != len(ids):
            raise ValueError(f"take {self.name}: a camera's id is there twice")
        if len(egos) != 1 or len(ids) < 2:
            raise ValueError(f"take {self.name}: {len(egos)} of {len(ids)} cameras are ego, not 1")
        if self.split == "train" and egos[0].video is None:
            raise ValueError(f"take {self.name}: no ego video, so it cannot be trained on")
        if not is_inside(self.name) or "/" in self.name or self.name == ".":
            raise ValueError(f"take {self.name!r}: not the name of a file")
        return self


class RigFile(BaseModel):
    """All of a rig.json."""

    model_config = _STRICT

    format: Literal[1] = Field(description="version of this description")
    takes: tuple[RigTake, ...] = Field(description="the recordings")

    @model_validator(mode="after")
    def _has_each_once(self) -> "RigFile":
        names = [take.name for take in self.takes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"takes that are there twice: {', '.join(twice)}")
        return self


class Rig:
    """A folder with a rig.json, as `ingest` takes it: what EgoExo4D is for Ego-Exo4D."""

    def __init__(self, root: Path):
        self.root = root

    def takes(self) -> list[TakeEntry]:
        """Every take, by name. Raises RigFault if there is no rig.json, or it is odd."""
        entries = [
            TakeEntry(take.name, take.name, take.category, take.split, take, None)
            for take in _read(self.root / NAME).takes
        ]
        return sorted(entries, key=lambda entry: entry.take_name)

    def inputs(self, entry: TakeEntry) -> list[Path]:
        """The rig.json, and the take's videos and files of poses."""
        named = [
            path
            for camera in _record(entry).cameras
            for path in (camera.video, camera.pose.per_frame)
        ]
        return [self.root / path for path in (NAME, *named) if path is not None]

    def load(self, entry: TakeEntry, recipe: ClipRecipe) -> Take:
        """The take with its cameras. Raises TakeRejected with the reason if it cannot be used."""
        try:
            return self._load(_record(entry), recipe)
        except VideoFault as fault:
            detail = f"{fault.where}: expected {fault.expected}, got {fault.got}"
            raise TakeRejected("unreadable_video", detail) from fault
        except OSError as refused:
            raise TakeRejected("unreadable_file", str(refused)) from refused

    def _load(self, take: RigTake, recipe: ClipRecipe) -> Take:
        if take.fps != recipe.fps:
            raise TakeRejected("wrong_fps", f"rig.json says {take.fps:g}, not {recipe.fps:g}")
        cameras = {camera.id: camera for camera in take.cameras}
        exo_ids = [camera.id for camera in take.cameras if camera.role == "exo"]
        chosen = choose_views(
            exo_ids, recipe, lambda cam: None if cam in exo_ids else "no such exo camera"
        )
        ego = next(camera for camera in take.cameras if camera.role == "ego")
        used = [ego, *(cameras[cam_id] for cam_id in chosen)]
        headers = {camera.id: self._header(camera.video) for camera in used if camera.video}
        frames = synchronised_frames(headers, recipe.fps)
        views = [self._camera(camera, headers.get(camera.id), frames) for camera in used]
        return Take(
            take_name=take.name,
            take_uid=take.name,
            capture_name=take.capture or take.name,
            participant_uid=take.participant,
            category=take.category,
            split=take.split,
            fps=recipe.fps,
            frame_count=frames,
            ego=views[0],
            exos=tuple(views[1:]),
            task_frames=None,
        )

    def _header(self, video: str) -> VideoHeader:
        if not (self.root / video).is_file():
            raise TakeRejected("missing_video", video)
        return probe(self.root / video)

    def _camera(self, camera: RigCamera, header: VideoHeader | None, frames: int) -> CameraRow:
        turns = camera.quarter_turns_cw
        lens = camera.lens.built(turns)
        if header is not None:
            lens = lens_of_video(lens, header.hw, camera.id)
        rows, columns = lens.hw
        return CameraRow(
            cam_id=camera.id,
            video=camera.video or "",
            lens=camera.lens.kind,
            params=lens.params,
            hw=(columns, rows) if turns % 2 else (rows, columns),
            quarter_turns_cw=turns,
            world_from_cam=self._poses(camera, frames),
        )

    def _poses(self, camera: RigCamera, frames: int) -> Float64[np.ndarray, "n 4 4"]:
        """One pose for all frames of a fixed camera, else one a frame."""
        pose = camera.pose
        if pose.world_from_cam is not None and camera.role == "exo":
            return np.array([pose.world_from_cam], dtype=np.float64)
        if pose.world_from_cam is not None:
            return np.tile(np.array(pose.world_from_cam, dtype=np.float64), (frames, 1, 1))
        known = pose.frames or _read_poses(self.root / (pose.per_frame or ""), camera.id)
        if known and not 0 <= min(known) <= max(known) < frames:
            detail = f"{camera.id}: pose of frame {max(known)}, but the videos have {frames} frames"
            raise TakeRejected("video_shorter_than_poses", detail)
        poses = np.full((frames, 4, 4), np.nan)
        for frame, matrix in known.items():
            poses[frame] = matrix
        return poses


def _record(entry: TakeEntry) -> RigTake:
    if not isinstance(entry.record, RigTake):
        raise TypeError(f"{entry.take_name} is no take of a rig")
    return entry.record


def _read(path: Path) -> RigFile:
    try:
        return RigFile.model_validate_json(path.read_bytes(), strict=True)
    except OSError as missing:
        raise _fault(path, "a rig.json", missing.strerror or "no such file") from missing
    except ValidationError as wrong:
        first = wrong.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        expected = first["msg"].removeprefix("Value error, ")
        raise _fault(f"{path}, {place}", expected, first["input"]) from wrong


def _read_poses(path: Path, cam_id: str) -> dict[int, Float64[np.ndarray, "4 4"]]:
    """Poses by frame. Rejects the take if the file is damaged, or a pose is not rigid."""
    try:
        plain: Any = (
            orjson.loads(path.read_bytes())
            if path.suffix == ".json"
            else list(np.load(path, allow_pickle=False))
        )
        poses = {
            frame: np.asarray(matrix, dtype=np.float64).reshape(4, 4)
            for frame, matrix in enumerate(plain)
            if matrix is not None and not np.isnan(np.asarray(matrix, dtype=np.float64)).all()
        }
        for frame, matrix in poses.items():
            check_rigid(torch.from_numpy(matrix), f"{path.name}, frame {frame}")
    except (TypeError, ValueError, EOFError) as damage:  # CameraError and JSON's are ValueErrors
        raise TakeRejected("bad_camera_pose", f"{cam_id}: {path.name}: {damage}") from damage
    return poses


def _fault(where: object, expected: object, got: object) -> RigFault:
    shown = str(got)
    return RigFault(
        "This rig cannot be read.",
        where=where,
        expected=expected,
        got=shown if len(shown) < 200 else shown[:200] + " ...",
        fix="docs/rig.md shows a whole rig.json.",
    )
