"""A published clip list beside the own root: which of its clips can be had, and which differ."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.dataset import TakeEntry
from pipeline.rejects import Reject
from pipeline.take_tasks import Task
from stores.index import CameraRow, ClipRow, IndexFile, row_to_dict

SAME_TO = 1e-6
"""Poses (metres, and entries of rotations) and lens parameters apart by more than this differ.

Choice: another machine's arithmetic moves the last digits of a double, a new calibration more."""


@dataclass(frozen=True)
class PublishedReport:
    """How the own list compares with the published one that it was made after."""

    digest: str
    """The published list's."""
    clips: int
    kept: int
    """Clips of it that this root gives too."""
    altered: int
    """Kept clips that are not the same to the bit: other copies of the videos, last digits."""
    is_same: bool
    """True if the own list has the published one's digest."""

    def __str__(self) -> str:
        if self.is_same:
            return f"the same list: {self.clips} clips, digest {self.digest[:12]}"
        lost = self.clips - self.kept
        return f"of {self.clips} clips {lost} are missing and {self.altered} are not the same bits"


@dataclass(frozen=True, eq=False)
class CheckedClips:
    """The clips of one take that a published list and the own root agree on."""

    rows: list[ClipRow]
    """The own root's."""
    rejects: list[Reject]
    altered: int


def published_tasks(
    published: IndexFile, entries: Sequence[TakeEntry], absent: list[Reject]
) -> Iterator[Task]:
    """The published list's takes as the own root has them; others become rows of `absent`."""
    by_uid: dict[str, TakeEntry] = {}
    for entry in sorted(entries, key=lambda entry: entry.fault is not None):
        by_uid.setdefault(entry.take_uid, entry)
    for rows in published.takes():
        entry = by_uid.get(rows[0].take_uid)
        if entry is None or entry.take_name != rows[0].take_name:
            here = "no such take_uid" if entry is None else f"named {entry.take_name} here"
            name, uid = rows[0].take_name, rows[0].take_uid
            detail = f"{here}; {len(rows)} clips"
            absent.append(Reject(name, uid, "", "published_take_absent", detail))
        else:
            yield Task(entry, tuple(rows))


def check_clips(published: Iterable[ClipRow], own: Iterable[ClipRow]) -> CheckedClips:
    """The own rows of the published clips, where frames, cameras and labels are the same.

    Evaluation sets are taken from the list."""
    here = {row.clip_id: row for row in own}
    rows, rejects, altered = [], [], 0
    for row in published:
        mine = here.get(row.clip_id)
        why = "" if mine is None else _difference(row, mine)
        if mine is None:
            rejects.append(_reject(row, "published_clip_absent", _nearest(row, here)))
        elif why:
            rejects.append(_reject(row, "published_clip_differs", why))
        else:
            # which clip is a take's central one is the list's to say: here it may be missing
            mine = replace(mine, sets=row.sets)
            rows.append(mine)
            altered += row_to_dict(mine) != row_to_dict(row)
    return CheckedClips(rows, rejects, altered)


def _reject(row: ClipRow, reason: str, detail: str) -> Reject:
    return Reject(row.take_name, row.take_uid, row.clip_id, reason, detail)


def _nearest(row: ClipRow, here: Mapping[str, ClipRow]) -> str:
    starts = sorted(own.frames[0] for own in here.values())
    span = f"clips from frame {starts[0]} to {starts[-1]}" if starts else "no clips"
    return f"this root's take gives {span}, none at {row.frames[0]} with every pose"


def _difference(theirs: ClipRow, mine: ClipRow) -> str:
    """What differs, in words; empty if nothing that matters does."""
    for name in ("frames", "category", "split", "capture_name"):
        if getattr(theirs, name) != getattr(mine, name):
            return f"{name}: {getattr(theirs, name)} published, {getattr(mine, name)} here"
    cameras = [_cameras(theirs), _cameras(mine)]
    ids = [[camera.cam_id for camera in row] for row in cameras]
    if ids[0] != ids[1]:
        return f"cameras: {', '.join(ids[0])} published, {', '.join(ids[1])} here"
    found = (_camera_difference(a, b) for a, b in zip(*cameras, strict=True))
    return "; ".join(text for text in found if text)


def _cameras(row: ClipRow) -> list[CameraRow]:
    return [row.ego, *row.present]


def _camera_difference(theirs: CameraRow, mine: CameraRow) -> str:
    lens = (theirs.lens, theirs.quarter_turns_cw, len(theirs.params))
    if lens != (mine.lens, mine.quarter_turns_cw, len(mine.params)):
        return f"{mine.cam_id}: another kind of lens"
    if theirs.world_from_cam.shape != mine.world_from_cam.shape:
        return f"{mine.cam_id}: {len(theirs.world_from_cam)} poses, {len(mine.world_from_cam)} here"
    apart = _apart(theirs.world_from_cam, mine.world_from_cam)
    if apart > SAME_TO:
        return f"{mine.cam_id}: a pose differs by {apart:.3g}"
    # parameters of copies of another size are other numbers for the same lens
    if theirs.hw == mine.hw and _apart(np.array(theirs.params), np.array(mine.params)) > SAME_TO:
        return f"{mine.cam_id}: another calibration of the lens"
    return ""


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    # NaN in one alone is a difference without end
    if (np.isnan(a) != np.isnan(b)).any():
        return float("inf")
    return float(np.nan_to_num(np.abs(a - b)).max(initial=0.0))
