"""Files of a run with one JSON line a step: appended, read, cut back to a checkpoint's step."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import orjson

from stores.atomic import disk_faults, write_whole


@dataclass(frozen=True)
class StepLine:
    """What a line says."""

    step: int
    """Steps done, this one counted."""


Line = TypeVar("Line", bound=StepLine)


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """The lines of a file, oldest first; a last line that was cut off is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [kind(**orjson.loads(line)) for line in whole]


def append_line(path: Path, line: StepLine) -> None:
    """Adds one line. Raises StoreFault if the disk has no room."""
    with disk_faults(path), path.open("ab") as file:
        file.write(_text(line))


def truncate_lines(path: Path, kind: type[Line], step: int) -> None:
    """Drops the lines of steps that will be done again; a file that is not there stays so."""
    if path.exists():
        kept = [line for line in read_lines(path, kind) if line.step <= step]
        write_whole(path, b"".join(map(_text, kept)))


def _text(line: StepLine) -> bytes:
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
