"""What an evaluation has measured before it was stopped: a line a clip, beside its scores to be.

{"basis": "5c0e..."}                                        what decides the numbers
{"clip_id": "...", "video": "9b1f...", "frames": {...}, "clip": {...}}
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from exo2ego.evaluation.measures import Measured
from stores.atomic import disk_faults, write_whole

ENDING = ".unfinished.jsonl"


@dataclass(frozen=True)
class Unfinished:
    """The file, and what it knows. A line that was cut off is as good as none."""

    path: Path
    known: Mapping[tuple[str, str], Measured]
    """By clip id and digest of the video: one that was made again is measured again."""

    def add(self, clip_id: str, video: str, measured: Measured) -> None:
        """Keeps one more clip."""
        with disk_faults(self.path), self.path.open("ab") as file:
            file.write(_line(clip_id, video, measured))

    def remove(self) -> None:
        """The scores are written."""
        self.path.unlink(missing_ok=True)


def open_unfinished(scores: Path, basis: str) -> Unfinished:
    """What was measured for these scores on the same basis; on another one all begins anew."""
    path = scores.with_suffix(ENDING)
    found = dict(_clips(_whole_lines(path), basis))
    head = json.dumps({"basis": basis}).encode() + b"\n"
    write_whole(path, head + b"".join(_line(*key, measured) for key, measured in found.items()))
    return Unfinished(path, found)


def _clips(lines: list[dict[str, Any]], basis: str) -> Iterable[tuple[tuple[str, str], Measured]]:
    if not lines or lines[0].get("basis") != basis:
        return
    for line in lines[1:]:
        frames = {
            name: torch.tensor(values, dtype=torch.float64)
            for name, values in line["frames"].items()
        }
        yield (line["clip_id"], line["video"]), Measured(frames, line["clip"])


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines up to the first that is cut off."""
    lines = []
    for text in path.read_bytes().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except (json.JSONDecodeError, UnicodeDecodeError):
            break
    return lines


def _line(clip_id: str, video: str, measured: Measured) -> bytes:
    # not orjson: it has no infinity, which the PSNR of equal frames is
    frames = {name: values.tolist() for name, values in measured.frames.items()}
    line = {"clip_id": clip_id, "video": video, "frames": frames, "clip": dict(measured.clip)}
    return json.dumps(line).encode() + b"\n"
