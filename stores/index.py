"""The clip index: one Parquet row a clip, with its frames and the camera of every frame."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64
from pydantic import ValidationError

from stores.atomic import whole_file
from stores.errors import StoreFault, UserFault
from stores.recipe import ClipRecipe

INDEX_FORMAT = 1
"""Version of the columns below; a reader refuses a newer one."""
_ABOUT = "exo2ego"
_ROWS_A_GROUP = 1024


@dataclass(frozen=True, eq=False)
class CameraRow:
    """One camera of one clip: its video, its lens as plain numbers, and where it stood."""

    cam_id: str
    video: str
    """Path below the dataset's root, with forward slashes; empty if only the camera is known."""
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
    exos: tuple[CameraRow | None, ...]
    """As many as the recipe's views; None at the end for those that the take does not have."""
    sets: tuple[str, ...]
    """Evaluation sets that the clip belongs to: `test-1`, `test-all`."""

    @property
    def present(self) -> tuple[CameraRow, ...]:
        """The exo cameras that are there, the reference of the ego rays first (paper 3.2)."""
        return tuple(exo for exo in self.exos if exo is not None)


@dataclass(frozen=True, eq=False)
class ClipIndex:
    """Clips of one dataset root, by take and start, under one recipe."""

    root: str
    recipe: ClipRecipe
    rows: tuple[ClipRow, ...]

    @property
    def digest(self) -> str:
        """blake3 of recipe and rows; the folder where the dataset lies does not count."""
        takes = (take_table(rows) for rows in by_take(self.rows))
        return index_digest(self.recipe, [(take.take_name, take.digest) for take in takes])


@dataclass(frozen=True, eq=False)
class TakeTable:
    """The clips of one take as they stand in an index."""

    take_name: str
    digest: str
    """blake3 of the rows, which must be in the order of their first frames."""
    table: pa.Table


def row_to_dict(row: ClipRow) -> dict[str, Any]:
    """The row as plain lists and numbers, ready for JSON or Arrow."""
    plain = {name: getattr(row, name) for name in _TEXT_COLUMNS}
    return plain | {
        "frames": list(row.frames),
        "sets": list(row.sets),
        "ego": _camera_to_dict(row.ego),
        "exos": [exo and _camera_to_dict(exo) for exo in row.exos],
    }


def row_from_dict(plain: dict[str, Any]) -> ClipRow:
    """The row that `row_to_dict` wrote."""
    return ClipRow(
        **{name: plain[name] for name in _TEXT_COLUMNS},
        frames=tuple(plain["frames"]),
        sets=tuple(plain["sets"]),
        ego=_camera_from_dict(plain["ego"]),
        exos=tuple(exo and _camera_from_dict(exo) for exo in plain["exos"]),
    )


def by_take(rows: Iterable[ClipRow]) -> Iterator[list[ClipRow]]:
    """The rows of one take after the other, by name, each take's by first frame."""
    ordered = sorted(rows, key=lambda row: (row.take_name, row.frames))
    for _, members in groupby(ordered, key=lambda row: row.take_name):
        yield list(members)


def take_table(rows: Sequence[ClipRow]) -> TakeTable:
    """A take's clips, ready to be written; `rows` are in the order of their first frames."""
    plain = [row_to_dict(row) for row in rows]
    digest = blake3.blake3(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return TakeTable(rows[0].take_name, digest, pa.Table.from_pylist(plain, schema=ROW_SCHEMA))


def index_digest(recipe: ClipRecipe, takes: Iterable[tuple[str, str]]) -> str:
    """blake3 of the recipe and of each take's name and digest, in the order of the names."""
    body = [recipe.model_dump(mode="json"), sorted(takes)]
    return blake3.blake3(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()


def write_index(path: Path, index: ClipIndex) -> None:
    """Writes the index whole: a reader sees the old file or the new one, never half of it."""
    write_takes(path, index.root, index.recipe, map(take_table, by_take(index.rows)))


def write_takes(path: Path, root: str, recipe: ClipRecipe, takes: Iterable[TakeTable]) -> str:
    """Writes an index take by take, and returns its digest; memory does not grow with it.

    `takes` come in the order of their names. Raises StoreFault if the disk refuses; what was at
    `path` is then still there."""
    digests: list[tuple[str, str]] = []
    try:
        with whole_file(path) as file, pq.ParquetWriter(file, ROW_SCHEMA) as writer:
            for group in _row_groups(takes, digests):
                writer.write_table(group, row_group_size=len(group))
            about = {"format": INDEX_FORMAT, "root": root, "recipe": recipe.model_dump(mode="json")}
            about["digest"] = index_digest(recipe, digests)
            writer.add_key_value_metadata({_ABOUT: orjson.dumps(about).decode()})
    except UserFault:
        raise
    except OSError as refused:
        raise StoreFault(
            "The clip index cannot be written.",
            where=path,
            expected="a folder that can be written, with room for the index",
            got=refused.strerror or str(refused),
            fix="Make room or name another file with --out, and run again; an index that was "
            "there before is unchanged.",
        ) from refused
    return about["digest"]


def read_index(path: Path) -> ClipIndex:
    """The index at `path`. Raises StoreFault if it is missing, foreign, newer or was altered."""
    file = open_index(path)
    rows = tuple(row for take in file.takes() for row in take)
    return ClipIndex(file.root, file.recipe, rows)


def open_index(path: Path) -> "IndexFile":
    """What the index says of itself; its clips are not read yet. Raises StoreFault as above."""
    try:
        with pq.ParquetFile(path) as file:
            about = orjson.loads((file.metadata.metadata or {})[_ABOUT.encode()])
            clips = file.metadata.num_rows
    except FileNotFoundError as missing:
        raise _index_fault(path, "a clip index", "no such file") from missing
    except (pa.ArrowInvalid, KeyError, orjson.JSONDecodeError, OSError) as foreign:
        raise _index_fault(path, "a clip index of exo2ego", str(foreign)) from foreign
    if about["format"] > INDEX_FORMAT:
        raise _index_fault(path, f"index format up to {INDEX_FORMAT}", about["format"])
    try:
        recipe = ClipRecipe.model_validate(about["recipe"])
    except ValidationError as unknown:
        raise _index_fault(path, "a recipe that this version knows", str(unknown)) from unknown
    return IndexFile(path, about["format"], about["root"], recipe, about["digest"], clips)


@dataclass(frozen=True)
class IndexFile:
    """A clip index on disk."""

    path: Path
    format: int
    root: str
    recipe: ClipRecipe
    digest: str
    clips: int

    def count_takes(self) -> int:
        """Takes with clips in the list."""
        return len(pq.read_table(self.path, columns=["take_name"])["take_name"].unique())

    def takes(self) -> Iterator[list[ClipRow]]:
        """The clips of one take after the other, in order, a row group in memory at a time.

        Raises StoreFault, at the end at the latest, if the file was damaged or altered."""
        digests: list[tuple[str, str]] = []
        try:
            with pq.ParquetFile(self.path) as file:
                for group in range(file.num_row_groups):
                    rows = map(row_from_dict, file.read_row_group(group).to_pylist())
                    for take in by_take(rows):
                        digests.append((take[0].take_name, take_table(take).digest))
                        yield take
        except (pa.ArrowInvalid, OSError) as damage:
            raise _index_fault(self.path, "a whole clip index", str(damage)) from damage
        found = index_digest(self.recipe, digests)
        if found != self.digest:
            raise _index_fault(self.path, f"digest {self.digest[:12]}", found[:12])


def _row_groups(takes: Iterable[TakeTable], digests: list[tuple[str, str]]) -> Iterator[pa.Table]:
    """Tables of whole takes, of _ROWS_A_GROUP clips or a little more; notes the takes' digests."""
    waiting: list[pa.Table] = []
    for take in takes:
        if digests and take.take_name <= digests[-1][0]:
            raise ValueError(f"take {take.take_name} after {digests[-1][0]}: not in order")
        digests.append((take.take_name, take.digest))
        waiting.append(take.table)
        if sum(map(len, waiting)) >= _ROWS_A_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


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
