"""The doctor's round: every take of a clip index, one after the other, then the page."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pipeline.doctor.finding import TakeFinding, examine_take
from pipeline.doctor.job import JobSize, job_size
from pipeline.doctor.leaks import Leak, split_leaks
from pipeline.doctor.page import Examined, page
from pipeline.rejects import Reject, read_rejects
from stores.atomic import whole_file
from stores.index import ClipIndex, ClipRow, read_index
from stores.progress import Track, silent

GAP_REASON = "missing_pose"
"""Of rejects: a window that lacks a pose."""
LOOKERS = 2
"""Takes looked at at once: one waits for the disk while another decodes."""


@dataclass(frozen=True)
class DoctorReport:
    """What the round found, in numbers; the page shows the rest."""

    page: Path
    takes: int
    clips: int
    sheets_new: int
    """Sheets drawn now; the others were there already."""
    to_look_at: tuple[str, ...]
    """Takes that a person should look at first, each with the reasons."""
    leaks: tuple[Leak, ...]
    job: JobSize


def examine(
    index: ClipIndex | Path,
    rejects: Path | None,
    out_html: Path,
    *,
    check_sync: bool,
    encode_clips_per_second: float,
    frames_for: Collection[str] = ("test",),
    track: Track = silent,
) -> DoctorReport:
    """Writes the page and a sheet for every take, next to it; a sheet that is there is kept.

    Reads each video's header and the frames of three moments; `check_sync` also decodes up to 20
    seconds of each exo and ego video. `encode_clips_per_second` is the caller's assumption."""
    index = read_index(index) if isinstance(index, Path) else index
    left_out = tuple(read_rejects(rejects)) if rejects is not None else ()
    folder = out_html.with_name(f"{out_html.stem}_sheets")
    folder.mkdir(parents=True, exist_ok=True)
    found = tuple(_round(index, left_out, folder, check_sync=check_sync, track=track))
    leaks = split_leaks(index.rows)
    job = job_size(
        Counter(row.split for row in index.rows),
        index.recipe.shape,
        frames_for=frames_for,
        encode_clips_per_second=encode_clips_per_second,
    )
    shown = Examined(index.root, index.digest, found, left_out, leaks, job, folder.name, check_sync)
    with whole_file(out_html) as file:
        for part in page(shown):
            file.write(f"{part}\n".encode())
    return DoctorReport(
        page=out_html,
        takes=len(found),
        clips=len(index.rows),
        sheets_new=sum(take.is_new for take in found),
        to_look_at=tuple(
            f"{take.take_name}: {'; '.join(take.flags)}" for take in found if take.flags
        ),
        leaks=leaks,
        job=job,
    )


def _round(
    index: ClipIndex, rejects: Sequence[Reject], folder: Path, *, check_sync: bool, track: Track
) -> Iterator[TakeFinding]:
    """Each take's finding, in the order of take names."""
    gaps = Counter(reject.take_uid for reject in rejects if reject.reason == GAP_REASON)
    takes = [list(rows) for _, rows in groupby(_ordered(index), key=lambda row: row.take_uid)]

    def look(rows: list[ClipRow]) -> TakeFinding:
        return examine_take(
            Path(index.root),
            rows,
            folder,
            gaps=gaps[rows[0].take_uid],
            fps=index.recipe.fps,
            check_sync=check_sync,
        )

    with ThreadPoolExecutor(LOOKERS) as pool:
        yield from track(pool.map(look, takes), total=len(takes), what="look at", unit="takes")


def _ordered(index: ClipIndex) -> list[ClipRow]:
    return sorted(index.rows, key=lambda row: (row.take_name, row.take_uid, row.frames))
