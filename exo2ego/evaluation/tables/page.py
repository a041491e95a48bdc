"""All that `exo2ego tables` shows, as sections of plain cells: what each form writes in its way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exo2ego.evaluation.scores import Number
from exo2ego.evaluation.tables.claims import (
    Claim,
    Verdict,
    claims,
    contradictions,
    measured_scores,
    published_scores,
)
from exo2ego.evaluation.tables.fill import Filled, FilledTable, fill, strangers
from exo2ego.evaluation.tables.published import METRICS, published_tables
from exo2ego.evaluation.tables.result import Result, read_result

HERE = "here"
"""Heading of our numbers, each beside the paper's."""


@dataclass(frozen=True)
class Section:
    """A heading, a table of words, and lines below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    words: int = 1
    """How many of the first columns are words, not numbers."""


def tables_page(results: Sequence[Path], numbers: Sequence[int] = ()) -> list[Section]:
    """The paper's tables (all six, or these) with the results beside their cells; what the paper
    says of them, computed again; and the results that fit no row.

    Raises ResultFault for a result that cannot be read or does not go with the others.
    """
    read = [read_result(path) for path in results]
    chosen = [table for table in published_tables() if not numbers or table.number in numbers]
    filled = [fill(table, read) for table in chosen]
    sections = [_table_section(one) for one in filled]
    sections.append(_claims_section(filled))
    if others := strangers(read):
        sections.append(_strangers_section(others))
    return sections


def _table_section(filled: FilledTable) -> Section:
    """One table: its cells, ours beside them with the mark of the result."""
    table = filled.table
    heads = [
        f"{system}: {heading}" if system else heading
        for system in table.systems
        for heading in METRICS.values()
    ]
    header = [*table.labels, *(word for head in heads for word in (head, HERE))]
    rows = [
        [*row.labels, *(word for one in cells for word in _words(one))]
        for row, cells in filled.rows
    ]
    notes = [filled.counts + ".", *filled.notes]
    if filled.used and filled.lacking:
        notes.append(f"Empty, for want of: {'; '.join(filled.lacking)}.")
    title = f"Table {table.number}. {table.title}"
    return Section(title, header, rows, notes, words=len(table.labels))


def _words(filled: Filled) -> list[str]:
    """The paper's numbers and ours in turn, to its four digits."""
    pairs = zip(filled.cells.scores, filled.measured, strict=True)
    return [word for paper, ours in pairs for word in (f"{paper:.4f}", _number(ours, filled.mark))]


def _number(value: Number | None, mark: str) -> str:
    if value is None:
        return ""
    return f"{value} [{mark}]" if isinstance(value, str) else f"{value:.4f} [{mark}]"


def _claims_section(filled: Sequence[FilledTable]) -> Section:
    """What the paper says of these tables, from its own cells and from ours."""
    published, ours = published_scores(filled), measured_scores(filled)
    shown = {one.table.number for one in filled}
    own = [claim for claim in claims() if {place[0] for place in claim.places} <= shown]
    rows = [_claim_row(claim, claim.of(published), claim.of(ours)) for claim in own]
    notes = [
        f"The paper has two scores for what we take for one system, {one}."
        for one in contradictions(filled)
    ]
    return Section(
        "What the paper says of its tables, computed from the cells",
        ["section", "claim", "from the paper's cells", "from ours"],
        rows,
        notes,
        words=4,
    )


def _claim_row(claim: Claim, published: Verdict, ours: Verdict) -> list[str]:
    return [claim.source, claim.says, _verdict(published), _verdict(ours)]


def _verdict(verdict: Verdict) -> str:
    names = {True: "follows", False: "DOES NOT FOLLOW", None: "open"}
    return f"{names[verdict.follows]}: {verdict.because}"


def _strangers_section(results: Sequence[Result]) -> Section:
    """The results that are in no table, with their scores: nothing is dropped in silence."""
    rows = [
        [result.name, str(result.system), name, str(result.takes(name))]
        + [_plain(getattr(score, metric)) for metric in METRICS]
        for result in results
        for name, score in result.scores.categories.items()
    ]
    header = ["result", "why", "category", "takes", *METRICS.values()]
    return Section("Results that fit no row", header, rows, words=3)


def _plain(value: Number) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"
