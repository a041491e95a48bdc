"""What an ingest ends with: the page for a person to look at, and the tables in the terminal."""

from collections.abc import Sequence

from pipeline.doctor.examine import DoctorReport, examine
from pipeline.ingest import IngestReport
from stores.progress import Track, silent

MOST_SHOWN = 8
"""Takes to look at that the terminal names; the page has them all."""


def examine_ingest(
    report: IngestReport,
    check_sync: bool,
    encode_clips_per_second: float,
    track: Track = silent,
) -> DoctorReport:
    """The doctor's round over a fresh clip index; writes ingest.html beside it."""
    return examine(
        report.index,
        report.index.with_name("rejects.parquet"),
        report.index.with_name("ingest.html"),
        check_sync=check_sync,
        encode_clips_per_second=encode_clips_per_second,
        track=track,
    )


def summary(report: IngestReport, doctor: DoctorReport | None) -> str:
    """Takes and clips by category and split, reasons of rejects, and what to look at."""
    lines = _table(["category", "split", "takes", "clips"], _counts(report))
    if report.reasons:
        reasons = [[reason, str(count)] for reason, count in report.reasons.items()]
        lines += ["", *_table(["left out because", "count"], reasons)]
    for what, others in (
        ("other categories", report.other_categories),
        ("other splits", report.other_splits),
    ):
        if others:
            counts = ", ".join(f"{name} {count}" for name, count in others.items())
            lines.append(f"{what} (takes): {counts}")
    lines += ["", f"index      {report.index}", f"digest     {report.digest}"]
    if report.agreement:
        found = report.agreement
        apart = f"{found.worst.millimetres:.3g} mm, {found.worst.degrees:.2g} degrees"
        lines.append(
            f"agreement  camera_pose and trajectory: at worst {apart}, {found.worst.pixels:.2g} px "
            f"({found.takes} takes compared, worst {found.worst_take})"
        )
    if report.published:
        lines.append(f"published  {report.published}")
    return "\n".join([*lines, *_doctor(doctor)])


def _counts(report: IngestReport) -> list[list[str]]:
    rows = [
        [category, split, str(takes), str(report.clips_of.get(category, {}).get(split, 0))]
        for category, of in report.takes_of.items()
        for split, takes in of.items()
    ]
    return [*rows, ["all", "", str(report.takes), str(report.clips)]]


def _doctor(doctor: DoctorReport | None) -> list[str]:
    if doctor is None:
        return []
    store = f"{doctor.job.bytes / 1e9:.2f} GB of store"
    hours = f"{doctor.job.gpu_hours:.2f} GPU hours"
    rate = f"{doctor.job.encode_clips_per_second:g} clips/s, assumed"
    lines = [f"to come    {store}, {hours} at {rate}", f"page       {doctor.page}"]
    if doctor.leaks:
        lines.append(f"leakage    {len(doctor.leaks)} captures or participants in two splits")
    lines += [f"look at    {take}" for take in doctor.to_look_at[:MOST_SHOWN]]
    more = len(doctor.to_look_at) - MOST_SHOWN
    return [*lines, *([f"           and {more} more"] if more > 0 else [])]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = []
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if rows and rows[-1][place].isdecimal() else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]
