"""takes.json and splits.json: which takes there are, what they show, and which may be used."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.dataset import TakeEntry
from stores.errors import UserFault

SPLITS = ("train", "val", "test")
"""As splits.json names them."""
CATEGORIES = ("bike", "basketball", "covid", "cpr")
"""The paper's four categories (its Table 1)."""
CategoryRule = Literal["id", "name"]
_CATEGORY_OF_PARENT = {4000: "bike", 6000: "basketball"}
_CATEGORY_OF_TASK = {2001: "covid", 2005: "cpr"}
_PSEUDO_CAMERAS = ("collage", "best_exo")


class DatasetFault(UserFault, OSError):
    """A folder that is not Ego-Exo4D's, or lacks a file that every part of it needs."""


class Stream(BaseModel):
    """One aligned video of a camera."""

    relative_path: str | None = Field(None, description="below the take's folder")
    is_collage: bool | None = Field(None, description="several cameras in one picture")


class Camera(BaseModel):
    """One camera of a capture, with an aligned video or not."""

    cam_id: str = Field(description="cam01, gp01, aria01, mobile, ...")
    is_ego: bool | str | None = Field(None, description="worn by the participant; may be a string")

    @property
    def worn(self) -> bool:
        """True if the participant wears the camera."""
        return str(self.is_ego).lower() == "true"


class Capture(BaseModel):
    """The recording that a take was cut from."""

    capture_name: str = Field(description="folder below captures/")
    cameras: list[Camera] = Field(description="all cameras, phones included")


class TakeRecord(BaseModel):
    """What is used of one entry of takes.json."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    take_name: str = Field(description="name of the take's folder")
    take_uid: str = Field(description="name of the take in annotations and splits")
    root_dir: str | None = Field(None, description="the take's folder, below the root")
    participant_uid: str | None = Field(None, description="who wore the ego camera")
    is_dropped: bool | None = Field(None, description="withdrawn by the dataset's authors")
    task_id: int | None = Field(None, description="what is done")
    task_name: str | None = Field(None, description="the same in words")
    parent_task_id: int | None = Field(None, description="what kind of thing is done")
    parent_task_name: str | None = Field(None, description="the same in words")
    task_start_sec: float | None = Field(None, description="where the task begins in the videos")
    task_end_sec: float | None = Field(None, description="where it ends")
    timesync_start_idx: int | None = Field(None, description="timesync.csv's row of frame 0")
    timesync_end_idx: int | None = Field(None, description="one past the last frame's row")
    capture: Capture = Field(description="the recording that the take was cut from")
    frame_aligned_videos: dict[str, dict[str, Stream | None] | None] = Field(
        description="aligned videos by camera and stream"
    )

    @field_validator("frame_aligned_videos", mode="before")
    @classmethod
    def _without_pseudo_cameras(cls, videos: Any) -> Any:
        if not isinstance(videos, dict):
            return videos
        return {
            cam_id: streams for cam_id, streams in videos.items() if cam_id not in _PSEUDO_CAMERAS
        }

    def video_of(self, cam_id: str, stream: str) -> str | None:
        """The video's path below the take's folder; None if there is none or it is a collage."""
        found = (self.frame_aligned_videos.get(cam_id) or {}).get(stream)
        return found.relative_path if found and not found.is_collage else None


def read_takes(root: Path, rule: CategoryRule) -> list[TakeEntry]:
    """Every entry of takes.json, by name; its order there does not matter.

    Choice: of entries with one uid or one name the first usable one stays."""
    raw = _read_json(root, "takes.json", "--parts metadata")
    if not isinstance(raw, list):
        raise _not_the_dataset(root, "takes.json with a list of takes", type(raw).__name__)
    splits = read_splits(root)
    ordered = sorted(raw, key=lambda entry: orjson.dumps(entry, option=orjson.OPT_SORT_KEYS))
    entries = [_entry(plain, splits, rule) for plain in ordered]
    entries.sort(key=lambda entry: (entry.fault is not None, entry.take_name, entry.take_uid))
    kept: list[TakeEntry] = []
    names: set[str] = set()
    for entry in entries:
        again = names & {f"uid {entry.take_uid}", f"name {entry.take_name}"}
        if again and entry.fault is None:
            detail = f"{' and '.join(sorted(again))} again"
            entry = replace(entry, fault=("duplicate_take", detail))
        elif entry.fault is None:
            names |= {f"uid {entry.take_uid}", f"name {entry.take_name}"}
        kept.append(entry)
    return sorted(kept, key=lambda entry: (entry.take_name, entry.take_uid))


def read_splits(root: Path) -> dict[str, str]:
    """take_uid -> train, val or test. Raises DatasetFault if splits.json is not there."""
    raw = _read_json(root, "annotations/splits.json", "--parts annotations")
    if not isinstance(raw, dict) or not ({"take_uid_to_split", "split_to_take_uids"} & raw.keys()):
        raise _not_the_dataset(root, "annotations/splits.json with take_uid_to_split", "others")
    by_split = raw.get("split_to_take_uids") or {}
    listed = {uid: split for split, uids in by_split.items() for uid in uids}
    return listed | (raw.get("take_uid_to_split") or {})


def is_inside(path: str) -> bool:
    """True if a relative path stays in its folder and is not empty."""
    parts = set(path.split("/"))
    return bool(parts - {"", "."}) and ".." not in parts and path[0] != "/" and "\\" not in path


def _entry(plain: Any, splits: Mapping[str, str], rule: CategoryRule) -> TakeEntry:
    try:
        record = TakeRecord.model_validate(plain)
    except ValidationError as odd:
        fields = plain if isinstance(plain, dict) else {}
        name, uid = str(fields.get("take_name", "")), str(fields.get("take_uid", ""))
        first = odd.errors()[0]
        detail = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        task = _category_by_id(fields.get("task_id"), fields.get("parent_task_id"), None)
        return TakeEntry(name, uid, task, splits.get(uid, ""), None, ("malformed_entry", detail))
    split = splits.get(record.take_uid, "")
    category = _CATEGORY_RULES[rule](record)
    fault, kinds = _entry_fault(record, split), _kinds(record, rule)
    return TakeEntry(record.take_name, record.take_uid, category, split, record, fault, kinds)


def _entry_fault(record: TakeRecord, split: str) -> tuple[str, str] | None:
    for name in (record.take_name, record.take_uid, record.capture.capture_name):
        if not is_inside(name) or "/" in name:
            return "bad_name", repr(name)
    if record.root_dir is not None and not is_inside(record.root_dir):
        return "bad_name", f"root_dir {record.root_dir!r}"
    if record.is_dropped:
        return "dropped", "is_dropped is true"
    if not split:
        return "no_split", "not in splits.json"
    return None


def _category_by_id(task_id: Any, parent_id: Any, parent_name: str | None) -> str:
    named = _CATEGORY_OF_PARENT.get(parent_id) or _CATEGORY_OF_TASK.get(task_id)
    return named or _slug(parent_name or "unknown")


def _category_by_name(record: TakeRecord) -> str:
    # As Exo2Ego-V sorts takes; misses takes whose names hold no such word.
    return next((word for word in CATEGORIES if word in record.take_name.lower()), "unknown")


def _kinds(record: TakeRecord, rule: CategoryRule) -> frozenset[str]:
    """What the take's category is called beside its own name. By name it has no other names:
    the parent task is called basketball too, and its takes would come in by another door."""
    ids = {str(number) for number in (record.task_id, record.parent_task_id) if number is not None}
    names = (record.task_name, record.parent_task_name) if rule == "id" else ()
    return frozenset(ids | {_slug(name) for name in names if name})


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


_CATEGORY_RULES: dict[str, Callable[[TakeRecord], str]] = {
    "id": lambda take: _category_by_id(take.task_id, take.parent_task_id, take.parent_task_name),
    "name": _category_by_name,
}


def _read_json(root: Path, name: str, parts: str) -> Any:
    path = root / name
    try:
        return orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as missing:
        there = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else None
        got = "no such folder" if there is None else f"{len(there)} entries: {', '.join(there[:8])}"
        raise _not_the_dataset(root, f"{name} (egoexo {parts})", got) from missing
    except OSError as refused:
        raise _not_the_dataset(root, f"{name} that can be read", str(refused)) from refused
    except orjson.JSONDecodeError as damage:
        raise _not_the_dataset(root, f"{name} that is JSON", str(damage)) from damage


def _not_the_dataset(root: Path, expected: str, got: str) -> DatasetFault:
    return DatasetFault(
        "This folder is not a root of Ego-Exo4D that can be read.",
        where=root,
        expected=expected,
        got=got,
        fix="Give the folder that `egoexo -o` wrote to; fetch metadata and annotations first, "
        "without --uids, which leaves takes.json and splits.json out.",
    )
