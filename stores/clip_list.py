"""Clip indexes as artefacts: what one says of itself, how two differ, and one as a CSV table."""

import codecs
import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from stores.atomic import whole_file
from stores.errors import StoreFault
from stores.index import CameraRow, ClipRow, IndexFile, open_index

_LABELS = ("take_name", "take_uid", "capture_name", "participant_uid", "category", "split", "sets")
_COLUMNS = (
    *("clip_id", "take_name", "take_uid", "capture_name", "participant_uid", "category", "split"),
    *("sets", "first_frame", "frames", "stride", "ego", "reference", "exos"),
)


@dataclass(frozen=True)
class ClipChange:
    """One clip that two lists both have, and not the same."""

    clip_id: str
    what: tuple[str, ...]
    """In words, one entry a difference."""
    millimetres: float
    """The farthest that a camera's centre is moved; 0 if poses are not what differs."""
    degrees: float
    """The most that a camera is turned."""


@dataclass(frozen=True)
class ClipDiff:
    """How two clip lists differ."""

    digests: tuple[str, str]
    recipe: Mapping[str, tuple[Any, Any]]
    """Fields of the recipe that differ, with both values."""
    clips: tuple[int, int]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    changed: tuple[ClipChange, ...]

    @property
    def is_same(self) -> bool:
        """True if the two are one list, wherever the data lay."""
        return self.digests[0] == self.digests[1]


def describe_clips(path: Path) -> dict[str, Any]:
    """What the list is: format, digest, recipe, and its clips by category, split and set.

    Raises StoreFault if it is no clip index, or was altered."""
    file = open_index(path)
    takes: Counter[str] = Counter()
    clips: Counter[str] = Counter()
    sets: Counter[str] = Counter()
    for rows in file.takes():
        label = f"{rows[0].category}/{rows[0].split}"
        takes[label] += 1
        clips[label] += len(rows)
        sets.update(name for row in rows for name in row.sets)
    return {
        "path": str(path),
        "format": file.format,
        "digest": file.digest,
        "root": file.root,
        "recipe": file.recipe.model_dump(mode="json"),
        "takes": sum(takes.values()),
        "clips": file.clips,
        "takes_of": dict(sorted(takes.items())),
        "clips_of": dict(sorted(clips.items())),
        "sets": dict(sorted(sets.items())),
    }


def diff_clips(a: Path, b: Path) -> ClipDiff:
    """What differs from list `a` to list `b`; memory holds a take of each at a time."""
    files = open_index(a), open_index(b)
    recipes = [file.recipe.model_dump(mode="json") for file in files]
    only_in_a, only_in_b, changed = [], [], []
    for of_a, of_b in _side_by_side(*files):
        only_in_a += [clip_id for clip_id in of_a if clip_id not in of_b]
        only_in_b += [clip_id for clip_id in of_b if clip_id not in of_a]
        found = (clip_change(of_a[name], of_b[name]) for name in of_a if name in of_b)
        changed += [change for change in found if change.what]
    return ClipDiff(
        digests=(files[0].digest, files[1].digest),
        recipe={
            name: (recipes[0].get(name), recipes[1].get(name))
            for name in sorted({*recipes[0], *recipes[1]})
            if recipes[0].get(name) != recipes[1].get(name)
        },
        clips=(files[0].clips, files[1].clips),
        only_in_a=tuple(only_in_a),
        only_in_b=tuple(only_in_b),
        changed=tuple(changed),
    )


def clip_change(a: ClipRow, b: ClipRow) -> ClipChange:
    """What differs from the one clip to the other, in words."""
    what = [
        f"{name}: {getattr(a, name)} -> {getattr(b, name)}"
        for name in _LABELS
        if getattr(a, name) != getattr(b, name)
    ]
    if a.frames != b.frames:
        what.append(f"frames: {_frames(a)} -> {_frames(b)}")
    cameras = {camera.cam_id: camera for camera in (b.ego, *b.present)}
    ids = [" ".join(c.cam_id for c in (row.ego, *row.present)) for row in (a, b)]
    if ids[0] != ids[1]:
        what.append(f"cameras: {ids[0]} -> {ids[1]}")
    moved = [(0.0, 0.0)]
    for camera in (a.ego, *a.present):
        other = cameras.get(camera.cam_id)
        if other is None:
            continue
        what += _lens_changes(camera, other)
        apart = _pose_change(camera, other, a.frames, b.frames)
        if apart is not None:
            what.append(f"{camera.cam_id} moved by {apart[0]:.3g} mm, {apart[1]:.3g} degrees")
            moved.append(apart)
    return ClipChange(
        a.clip_id, tuple(what), max(mm for mm, _ in moved), max(degrees for _, degrees in moved)
    )


def export_csv(path: Path, out: Path) -> int:
    """Writes one line a clip to `out`, whole or not at all, and returns how many."""
    file = open_index(path)
    try:
        with whole_file(out) as raw:
            text = codecs.getwriter("utf-8")(raw)
            table = csv.writer(text, lineterminator="\n")
            table.writerow(_COLUMNS)
            for rows in file.takes():
                table.writerows(_cells(row) for row in rows)
    except StoreFault:
        raise
    except OSError as refused:
        raise StoreFault(
            "The table cannot be written.",
            where=out,
            expected="a folder that can be written, with room for it",
            got=refused.strerror or str(refused),
            fix="Make room, or name another file.",
        ) from refused
    return file.clips


def _cells(row: ClipRow) -> list[object]:
    strides = np.unique(np.diff(row.frames)).tolist()
    exos = [exo.cam_id for exo in row.present]
    return [
        *(row.clip_id, row.take_name, row.take_uid, row.capture_name, row.participant_uid),
        *(row.category, row.split, " ".join(row.sets), row.frames[0], len(row.frames)),
        *(" ".join(map(str, strides)), row.ego.cam_id, exos[0], " ".join(exos)),
    ]


Clips = Mapping[str, ClipRow]


def _side_by_side(a: IndexFile, b: IndexFile) -> Iterator[tuple[Clips, Clips]]:
    """The clips of each take that either list has, by id, in both: takes come in one order."""
    takes = [iter(a.takes()), iter(b.takes())]
    heads = [next(rows, None) for rows in takes]
    while any(heads):
        name = min(head[0].take_name for head in heads if head)
        here: list[Clips] = []
        for place, head in enumerate(heads):
            is_here = head is not None and head[0].take_name == name
            here.append({row.clip_id: row for row in head or ()} if is_here else {})
            if is_here:
                heads[place] = next(takes[place], None)
        yield here[0], here[1]


def _frames(row: ClipRow) -> str:
    return f"{len(row.frames)} from {row.frames[0]} to {row.frames[-1]}"


def _lens_changes(a: CameraRow, b: CameraRow) -> list[str]:
    names = ("video", "lens", "params", "hw", "quarter_turns_cw")
    differ = [name for name in names if getattr(a, name) != getattr(b, name)]
    return [f"{a.cam_id}: other {', '.join(differ)}"] if differ else []


def _pose_change(
    a: CameraRow, b: CameraRow, frames_a: Sequence[int], frames_b: Sequence[int]
) -> tuple[float, float] | None:
    """Millimetres and degrees at the frame where they are most; None if poses are the same bits.

    Only frames that both clips show are compared."""
    poses = [a.world_from_cam, b.world_from_cam]
    if len(poses[0]) > 1 and len(poses[1]) > 1:
        shared = sorted(set(frames_a) & set(frames_b))
        places = [[list(frames).index(f) for f in shared] for frames in (frames_a, frames_b)]
        poses = [row[at] for row, at in zip(poses, places, strict=True)]
    if poses[0].shape == poses[1].shape and np.array_equal(poses[0], poses[1], equal_nan=True):
        return None
    return _moved(*np.broadcast_arrays(*poses))


def _moved(a: Float64[np.ndarray, "n 4 4"], b: Float64[np.ndarray, "n 4 4"]) -> tuple[float, float]:
    known = np.isfinite(a).all(axis=(1, 2)) & np.isfinite(b).all(axis=(1, 2))
    if not known.all():
        return float("inf"), float("inf")
    millimetres = np.linalg.norm(a[:, :3, 3] - b[:, :3, 3], axis=-1) * 1000
    # by the chord, not by the trace: that loses small angles
    chord = np.linalg.norm(a[:, :3, :3] - b[:, :3, :3], axis=(1, 2)) / 8**0.5
    degrees = np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))
    return float(millimetres.max()), float(degrees.max())
