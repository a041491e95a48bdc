"""The page: the summary first, then every take in a section that opens."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pipeline.doctor.finding import Stream, TakeFinding
from pipeline.doctor.job import JobSize
from pipeline.doctor.leaks import Leak
from pipeline.doctor.markup import Markup, joined, table, tag
from pipeline.doctor.style import STYLE
from pipeline.doctor.sync import TOLERANCE
from pipeline.rejects import REASONS, Reject

MOST_REJECTS, MOST_FLAGGED = 200, 500
"""Rows a reason, and takes, that the page lists; rejects.parquet has the rest."""
_GB = 1e9


@dataclass(frozen=True)
class Examined:
    """All that the page shows."""

    root: str
    digest: str
    takes: Sequence[TakeFinding]
    rejects: Sequence[Reject]
    leaks: Sequence[Leak]
    job: JobSize
    sheets: str
    """Folder of the sheets, relative to the page."""
    checked_sync: bool


def page(examined: Examined) -> Iterator[str]:
    """The page's parts in order, so that it need not be held whole."""
    yield "<!DOCTYPE html>\n<html lang='en'>"
    yield tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width"),
        tag("title", "Ingest"),
        tag("style", Markup(STYLE)),
    )
    yield "<body><main>"
    yield _heading(examined)
    yield _flagged(examined.takes)
    yield _counts(examined.takes)
    yield _rejects(examined.rejects)
    yield _leaks(examined.leaks)
    yield _sync(examined)
    yield _job(examined.job)
    yield tag("h2", "Takes")
    yield tag("p", _LEGEND, class_="note")
    for take in examined.takes:
        yield _take(take, examined.sheets)
    yield "</main></body></html>\n"


_LEGEND = (
    "In exo views a pink cross marks the ego camera's centre, in a circle of a head's size: it "
    "belongs between the wearer's eyes. In the ego view a blue cross marks each exo camera: it "
    "belongs on that camera. A mark that is not where it belongs means a wrong pose, lens or time."
)


def _heading(examined: Examined) -> Markup:
    takes = {reject.take_uid for reject in examined.rejects if not reject.clip_id}
    tiles = {
        "takes": f"{len(examined.takes):,}",
        "clips": f"{examined.job.clips:,}",
        "takes left out": f"{len(takes):,}",
        "clips left out": f"{sum(bool(reject.clip_id) for reject in examined.rejects):,}",
        "to look at": f"{sum(bool(take.flags) for take in examined.takes):,}",
        "shared by splits": f"{len(examined.leaks):,}",
        "store, at most": f"{examined.job.bytes / _GB:,.2f} GB",
        "GPU hours, assumed": _hours(examined.job),
    }
    shown = [tag("div", tag("b", value), tag("span", name)) for name, value in tiles.items()]
    origin = f"{examined.root}, clip index {examined.digest[:12]}"
    return joined([tag("h1", "Ingest"), tag("p", origin), tag("div", *shown, class_="tiles")])


def _flagged(takes: Sequence[TakeFinding]) -> Markup:
    flagged = [take for take in takes if take.flags]
    if not flagged:
        return tag("p", "No take stands out. Look at some sheets all the same.", class_="good")
    rows = [
        [tag("a", take.take_name, href=f"#{quote(take.sheet)}"), "; ".join(take.flags)]
        for take in flagged[:MOST_FLAGGED]
    ]
    more = _more(len(flagged) - MOST_FLAGGED, "takes")
    return joined([tag("h2", "Look at these first"), table(["take", "why"], rows), more])


def _counts(takes: Sequence[TakeFinding]) -> Markup:
    splits = sorted({take.split for take in takes})
    count = Counter((take.category, take.split) for take in takes)
    clips: Counter[tuple[str, str]] = Counter()
    for take in takes:
        clips[take.category, take.split] += take.clips
    categories = sorted({take.category for take in takes})
    rows = [
        [
            name,
            *(
                _both(count, clips, cells, part)
                for part in [*((split,) for split in splits), splits]
            ),
        ]
        for name, cells in [*((name, [name]) for name in categories), ("all", categories)]
    ]
    heading = tag("h2", "Takes / clips by category and split")
    return joined([heading, table(["category", *splits, "all"], rows)])


def _both(
    takes: Mapping[tuple[str, str], int],
    clips: Mapping[tuple[str, str], int],
    categories: Sequence[str],
    splits: Sequence[str],
) -> str:
    cells = [(category, split) for category in categories for split in splits]
    return " / ".join(f"{sum(count.get(cell, 0) for cell in cells):,}" for count in (takes, clips))


def _rejects(rejects: Sequence[Reject]) -> Markup:
    heading = tag("h2", "Left out")
    if not rejects:
        return joined([heading, tag("p", "Nothing was left out.")])
    by_reason: dict[str, list[Reject]] = {}
    for reject in rejects:
        by_reason.setdefault(reject.reason, []).append(reject)
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    return joined([heading, *(_reason(reason, rows) for reason, rows in ordered)])


def _reason(reason: str, rejects: Sequence[Reject]) -> Markup:
    meaning = REASONS.get(reason, "")
    title = tag("summary", tag("b", f"{len(rejects):,}"), " ", tag("code", reason), f" {meaning}")
    rows = [
        [reject.take_name or reject.take_uid, reject.clip_id, reject.detail]
        for reject in rejects[:MOST_REJECTS]
    ]
    more = _more(len(rejects) - MOST_REJECTS, "rows in rejects.parquet")
    return tag("details", title, table(["take", "clip", "what was found"], rows), more)


def _more(count: int, what: str) -> Markup:
    return tag("p", f"and {count:,} more {what}") if count > 0 else Markup("")


def _leaks(leaks: Sequence[Leak]) -> Markup:
    heading = tag("h2", "Shared by splits")
    if not leaks:
        return joined([heading, tag("p", "No capture and no participant is in two splits.")])
    rows = [[leak.kind, leak.name, _takes_of(leak)] for leak in leaks]
    return joined([heading, table(["what", "name", "takes"], rows)])


def _takes_of(leak: Leak) -> str:
    return "; ".join(f"{split}: {', '.join(takes)}" for split, takes in leak.takes.items())


def _sync(examined: Examined) -> Markup:
    if not examined.checked_sync:
        return Markup("")
    words = Counter(take.sync.words for take in examined.takes if take.sync)
    rows = [[what, f"{count:,}"] for what, count in words.most_common()]
    note = (
        "How the wearer's head moves in the exo videos, and the picture in the ego video, against "
        f"how the ego poses say they move. An estimate: {TOLERANCE} frames either way count as "
        "together, and a clear wrong answer is possible, most of all where little moves or a "
        "movement repeats itself."
    )
    heading = tag("h2", "Do ego and exo run together?")
    return joined([heading, table(["finding", "takes"], rows), tag("p", note, class_="note")])


def _hours(job: JobSize) -> str:
    return f"{job.gpu_hours:,.1f}" if job.gpu_hours >= 1 else f"{job.gpu_hours:.2g}"


def _job(job: JobSize) -> Markup:
    rows = [
        [name, f"{array.clips:,}", f"{array.bytes / _GB:,.3f}", "yes" if array.compressed else "no"]
        for name, array in job.arrays.items()
    ]
    rows.append(["all", f"{job.clips:,}", f"{job.bytes / _GB:,.3f}", ""])
    note = (
        "Arrays that the store packs are counted unpacked, so it will be smaller. "
        f"{_hours(job)} GPU hours are what {job.clips:,} clips take at "
        f"{job.encode_clips_per_second:g} clips a second: this rate is an assumption, not measured "
        "here."
    )
    found = table(["array", "clips", "GB", "packed in the store"], rows)
    return joined([tag("h2", "The job to come"), found, tag("p", note, class_="note")])


def _take(take: TakeFinding, sheets: str) -> Markup:
    mark = tag("em", "look") if take.flags else Markup("")
    sync = f", {take.sync.words}" if take.sync else ""
    about = f"{take.category}, {take.split}, {take.clips} clips{sync}"
    title = tag("summary", tag("b", take.take_name), " ", tag("span", about), " ", mark)
    flags = [tag("p", flag, class_="bad") for flag in take.flags]
    picture = tag("img", src=quote(f"{sheets}/{take.sheet}"), loading="lazy", alt="contact sheet")
    inside = [*flags, picture, tag("p", _coverage(take)), _streams(take)]
    # a link to something inside a closed section opens it, a link to the section does not
    return tag("details", title, tag("div", *inside, id=quote(take.sheet)), class_="take")


def _coverage(take: TakeFinding) -> str:
    parts = [f"{take.posed:.0%} of the windows have every pose"]
    if take.gaps:
        parts[0] += f" ({take.gaps} left out)"
    if take.covered is not None:
        parts.append(f"clips span {take.covered:.0%} of the video")
    if take.in_view is not None:
        parts.append(f"the ego camera's centre lies in {take.in_view:.0%} of the exo pictures")
    return "; ".join(parts) + "."


def _streams(take: TakeFinding) -> Markup:
    offsets = take.sync.views if take.sync else {}
    head = ["camera", "frames", "fps", "size", "video"] + ["offset alone"] * bool(take.sync)
    rows = [
        [*_header(stream), stream.video or "none"]
        + [f"{offsets[stream.cam_id]:+d}" if stream.cam_id in offsets else ""] * bool(take.sync)
        for stream in take.streams
    ]
    found = [table(head, rows)]
    if take.sync:
        found += [tag("p", line) for line in take.sync.lines]
    return joined(found)


def _header(stream: Stream) -> list[str]:
    if stream.frames is None or stream.fps is None or stream.hw is None:
        return [stream.cam_id, "", "", ""]
    size = f"{stream.hw[1]} x {stream.hw[0]}"
    return [stream.cam_id, f"{stream.frames:,}", f"{stream.fps:g}", size]
