"""What is found about one take: sheet, streams, coverage, offset, and whether it looks wrong."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import blake3
import orjson
from PIL import Image
from pydantic import ValidationError

from pipeline.doctor.marks import share_in_view
from pipeline.doctor.sheet import draw_sheet
from pipeline.doctor.sync import SyncFinding, check_take
from pipeline.video import VideoFault, probe
from stores.atomic import write_whole
from stores.index import CameraRow, ClipRow, row_to_dict

SHEET_FORMAT = 1
"""Of what is drawn and measured; sheets and offsets of another one are made anew."""
LEAST_IN_VIEW = 0.5
"""Share of exo pictures that must hold the ego camera; below, the cameras are to be looked at."""
_JPEG_QUALITY = 80


@dataclass(frozen=True)
class Stream:
    """One video of a take as its header tells it."""

    cam_id: str
    video: str
    frames: int | None
    fps: float | None
    hw: tuple[int, int] | None
    trouble: str
    """Why there are no numbers."""


@dataclass(frozen=True)
class TakeFinding:
    """One take as the report shows it."""

    take_name: str
    category: str
    split: str
    clips: int
    gaps: int
    """Windows left out because a frame of theirs lacks a pose."""
    covered: float | None
    """Share of the video's frames that lie between a clip's first and last."""
    in_view: float | None
    """Share of clips and exo views whose picture holds the ego camera."""
    streams: tuple[Stream, ...]
    sheet: str
    """Name of the sheet's file; empty if there is none."""
    is_new: bool = field(compare=False)
    """True if the sheet was drawn now."""
    sync: SyncFinding | None
    """None if it was not asked for."""

    @property
    def posed(self) -> float:
        """Share of windows where every frame has its poses."""
        return self.clips / (self.clips + self.gaps)

    @property
    def flags(self) -> tuple[str, ...]:
        """What a person should look at."""
        counts = {stream.frames for stream in self.streams if stream.frames is not None}
        flags = [f"{stream.cam_id}: {stream.trouble}" for stream in self.streams if stream.trouble]
        if len(counts) > 1:
            flags.append(f"the videos have {', '.join(map(str, sorted(counts)))} frames")
        if self.in_view is not None and self.in_view < LEAST_IN_VIEW:
            flags.append(f"the wearer is in {self.in_view:.0%} of the exo pictures only")
        if self.sync is not None and self.sync.apart:
            flags.append(f"sync: {self.sync.words}")
        return tuple(flags)


def examine_take(
    root: Path, rows: Sequence[ClipRow], folder: Path, *, gaps: int, fps: float, check_sync: bool
) -> TakeFinding:
    """One take's finding; its sheet, and its offset if asked for, are kept in `folder`."""
    views = (rows[0].ego, *rows[0].present)
    name = _file_name(root, rows, views)
    sheet = folder / f"{name}.jpg"
    is_new = not sheet.exists()
    if is_new:
        _save(draw_sheet(root, rows), sheet)
    streams = tuple(_stream(root, view) for view in views)
    return TakeFinding(
        take_name=rows[0].take_name,
        category=rows[0].category,
        split=rows[0].split,
        clips=len(rows),
        gaps=gaps,
        covered=_covered(rows, streams),
        in_view=share_in_view(rows),
        streams=streams,
        sheet=sheet.name,
        is_new=is_new,
        sync=_sync(root, rows, folder / f"{name}.json", fps) if check_sync else None,
    )


def _file_name(root: Path, rows: Sequence[ClipRow], views: Sequence[CameraRow]) -> str:
    """The take's name, harmless, and a digest of its rows and of its videos' sizes."""
    paths = [root / view.video for view in views if view.video]
    sizes = [path.stat().st_size if path.is_file() else -1 for path in paths]
    plain = [row_to_dict(row) for row in rows]
    digest = blake3.blake3(orjson.dumps([SHEET_FORMAT, sizes, plain])).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', rows[0].take_name)[:60]}-{digest}"


def _save(sheet: Image.Image, path: Path) -> None:
    file = BytesIO()
    sheet.save(file, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    write_whole(path, file.getvalue())


def _stream(root: Path, view: CameraRow) -> Stream:
    if not view.video:
        return Stream(view.cam_id, "", None, None, None, "")
    try:
        header = probe(root / view.video)
    except VideoFault as fault:
        trouble = f"expected {fault.expected}, got {fault.got}"
        return Stream(view.cam_id, view.video, None, None, None, trouble)
    return Stream(view.cam_id, view.video, header.frames, header.fps, header.hw, "")


def _covered(rows: Sequence[ClipRow], streams: Sequence[Stream]) -> float | None:
    count = next((stream.frames for stream in streams if stream.frames), None)
    if count is None:
        return None
    spans = {frame for row in rows for frame in range(row.frames[0], row.frames[-1] + 1)}
    return len(spans) / count


def _sync(root: Path, rows: Sequence[ClipRow], path: Path, fps: float) -> SyncFinding:
    """The offset as an earlier run found it, or found now."""
    try:
        return SyncFinding.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        finding = check_take(root, rows, fps)
        write_whole(path, finding.model_dump_json(indent=1).encode())
        return finding
