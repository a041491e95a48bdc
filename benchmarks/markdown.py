"""Rows as a table of docs/scaling.md, so that a new run's figures can take the old ones' place."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.rows import Row

_HEAD = "| measured | value | held to | |\n|---|---|---|---|"


def table(rows: Sequence[Row]) -> str:
    """One line a row: what, value with three digits, bar and verdict, note."""
    return "\n".join([_HEAD, *map(_line, rows)])


def write_markdown(path: Path, rows: Mapping[str, Sequence[Row]]) -> None:
    """All rows, a table a benchmark."""
    path.write_text(
        "\n\n".join(f"## {name}\n\n{table(some)}" for name, some in rows.items()) + "\n"
    )


def _line(row: Row) -> str:
    if row.value is None:
        return f"| {row.what} | not measured | | {row.note} |"
    digits = f"{row.value:,.0f}" if row.value >= 100 else f"{row.value:.3g}"
    bars = [f">= {row.at_least:g}"] if row.at_least is not None else []
    bars += [f"<= {row.at_most:g}"] if row.at_most is not None else []
    bar = " and ".join(bars) + {True: ": met", False: ": **missed**", None: ""}[row.is_met]
    return f"| {row.what} | {digits} {row.unit}".rstrip() + f" | {bar} | {row.note} |"
