"""The clip index: one Parquet row a clip, with its frames and the camera of every frame."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import blake3
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stores.errors import StoreFault
from stores.schema import ClipShape

INDEX_FORMAT = 1
"""Version of the columns below; a reader refuses a newer one."""


class ClipRecipe(BaseModel):
    """What a clip is: which frames, how large, through which lens. Part of the store's recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = Field(9, description="frames a clip (paper 4.1)")
    stride: int = Field(4, description="source frames from one sampled frame to the next (4.1)")
    window_step: int = Field(
        36, description="source frames between clip starts. Choice: stride x frames, no overlap"
    )
    fps: float = Field(30.0, description="source frames a second (Ego-Exo4D's aligned videos)")
    views: int = Field(4, description="exo views a clip (paper 3.2)")
    hw: tuple[int, int] = Field((256, 256), description="rows and columns of a frame (4.1)")
    exo_fit: Literal["squash"] = Field("squash", description="how exo frames meet hw (4.1)")
    ego_lens: Literal["pinhole", "fisheye"] = Field(
        "pinhole", description="undistorted virtual pinhole, or the raw upright fisheye"
    )
    ego_focal_per_side: float = Field(
        150 / 512,
        description="virtual pinhole's focal length / frame side (Ego-Exo4D: f = 150 at 512)",
    )

    @property
    def shape(self) -> ClipShape:
        """Shape of every clip of this recipe."""
        return ClipShape(views=self.views, frames=self.frames, hw=self.hw)

    @property
    def span(self) -> int:
        """Source frames from a clip's first to its last, both counted."""
        return (self.frames - 1) * self.stride + 1


@dataclass(frozen=True, eq=False)
class CameraRow:
    """One camera of one clip: its video, its lens as plain numbers, and where it stood."""

    cam_id: str
    video: str
    """Path below the dataset's root, with forward slashes."""
    lens: str
    """Name in `exo2ego.geometry.lenses.LENSES`."""
    params: tuple[float, ...]
    """The lens's parameters in its own order, for frames of `hw`, pixel centres at +0.5."""
    hw: tuple[int, int]
    """Rows and columns of the frames that `params` are valid for, before `quarter_turns_cw`."""
    quarter_turns_cw: int
    """Quarter turns clockwise from the lens's frames to the video's (1: stored upright)."""
    world_from_cam: Float64[np.ndarray, "n 4 4"]
    """Metres, OpenCV axes of the turned (upright) camera; n = 1 if fixed, else one a frame."""


@dataclass(frozen=True, eq=False)
class ClipRow:
    """One clip: sampled source frames of five synchronised views."""

    clip_id: str
    take_name: str
    take_uid: str
    capture_name: str
    participant_uid: str
    category: str
    split: str
    frames: tuple[int, ...]
    """Indices into the five videos."""
    ego: CameraRow
    exos: tuple[CameraRow, ...]
    """The first one is the reference of the ego rays (paper 3.2)."""
    sets: tuple[str, ...]
    """Evaluation sets that the clip belongs to: `test-1`, `test-all`."""


@dataclass(frozen=True, eq=False)
class ClipIndex:
    """Clips of one dataset root, in the order of their ids, under one recipe."""

    root: str
    recipe: ClipRecipe
    rows: tuple[ClipRow, ...]

    @property
    def digest(self) -> str:
        """blake3 of recipe and rows; the folder where the dataset lies does not count."""
        body = [self.recipe.model_dump(mode="json"), [row_to_dict(row) for row in self.rows]]
        return blake3.blake3(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def row_to_dict(row: ClipRow) -> dict[str, Any]:
    """The row as plain lists and numbers, ready for JSON or Arrow."""
    plain = {name: getattr(row, name) for name in _TEXT_COLUMNS}
    return plain | {
        "frames": list(row.frames),
        "sets": list(row.sets),
        "ego": _camera_to_dict(row.ego),
        "exos": [_camera_to_dict(exo) for exo in row.exos],
    }


def row_from_dict(plain: dict[str, Any]) -> ClipRow:
    """The row that `row_to_dict` wrote."""
    return ClipRow(
        **{name: plain[name] for name in _TEXT_COLUMNS},
        frames=tuple(plain["frames"]),
        sets=tuple(plain["sets"]),
        ego=_camera_from_dict(plain["ego"]),
        exos=tuple(_camera_from_dict(exo) for exo in plain["exos"]),
    )


def write_index(path: Path, index: ClipIndex) -> None:
    """Writes the index whole: a reader sees the old file or the new one, never half of it."""
    rows = sorted(index.rows, key=lambda row: row.clip_id)
    table = pa.Table.from_pylist([row_to_dict(row) for row in rows], schema=ROW_SCHEMA)
    about = {
        "format": INDEX_FORMAT,
        "root": index.root,
        "recipe": index.recipe.model_dump(mode="json"),
        "digest": ClipIndex(index.root, index.recipe, tuple(rows)).digest,
    }
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table.replace_schema_metadata({"exo2ego": orjson.dumps(about)}), partial)
    partial.replace(path)


def read_index(path: Path) -> ClipIndex:
    """The index at `path`. Raises StoreFault if it is missing, foreign, newer or was altered."""
    try:
        table = pq.read_table(path)
        about = orjson.loads((table.schema.metadata or {})[b"exo2ego"])
    except FileNotFoundError as missing:
        raise _index_fault(path, "a clip index", "no such file") from missing
    except (pa.ArrowInvalid, KeyError, orjson.JSONDecodeError) as foreign:
        raise _index_fault(path, "a clip index of exo2ego", str(foreign)) from foreign
    if about["format"] > INDEX_FORMAT:
        raise _index_fault(path, f"index format up to {INDEX_FORMAT}", about["format"])
    try:
        recipe = ClipRecipe.model_validate(about["recipe"])
    except ValidationError as unknown:
        raise _index_fault(path, "a recipe that this version knows", str(unknown)) from unknown
    rows = tuple(row_from_dict(plain) for plain in table.to_pylist())
    index = ClipIndex(about["root"], recipe, rows)
    if index.digest != about["digest"]:
        raise _index_fault(path, f"digest {about['digest'][:12]}", index.digest[:12])
    return index


def _index_fault(path: Path, expected: object, got: object) -> StoreFault:
    return StoreFault(
        "The clip index cannot be read.",
        where=path,
        expected=expected,
        got=got,
        fix="Make it with `exo2ego ingest ROOT --out clips.parquet`.",
    )


def _camera_to_dict(camera: CameraRow) -> dict[str, Any]:
    return {
        "cam_id": camera.cam_id,
        "video": camera.video,
        "lens": camera.lens,
        "params": list(camera.params),
        "hw": list(camera.hw),
        "quarter_turns_cw": camera.quarter_turns_cw,
        "world_from_cam": [pose.ravel().tolist() for pose in camera.world_from_cam],
    }


def _camera_from_dict(plain: dict[str, Any]) -> CameraRow:
    poses = np.asarray(plain["world_from_cam"], dtype=np.float64)
    return CameraRow(
        cam_id=plain["cam_id"],
        video=plain["video"],
        lens=plain["lens"],
        params=tuple(plain["params"]),
        hw=(plain["hw"][0], plain["hw"][1]),
        quarter_turns_cw=plain["quarter_turns_cw"],
        world_from_cam=poses.reshape(-1, 4, 4),
    )


_TEXT_COLUMNS = (
    "clip_id",
    "take_name",
    "take_uid",
    "capture_name",
    "participant_uid",
    "category",
    "split",
)
_CAMERA_TYPE = pa.struct(
    [
        ("cam_id", pa.string()),
        ("video", pa.string()),
        ("lens", pa.string()),
        ("params", pa.list_(pa.float64())),
        ("hw", pa.list_(pa.int32())),
        ("quarter_turns_cw", pa.int8()),
        ("world_from_cam", pa.list_(pa.list_(pa.float64()))),
    ]
)
ROW_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXT_COLUMNS),
        ("frames", pa.list_(pa.int32())),
        ("sets", pa.list_(pa.string())),
        ("ego", _CAMERA_TYPE),
        ("exos", pa.list_(_CAMERA_TYPE)),
    ]
)
"""Columns of a clip index; the store's manifests add theirs."""
