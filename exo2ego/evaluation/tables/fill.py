"""Results beside published cells: which goes where, and what must not stand in one table."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

import blake3
import orjson

from exo2ego.evaluation.scores import NOT_MEASURED, Number
from exo2ego.evaluation.tables.published import METRICS, PublishedCells, Row, Table
from exo2ego.evaluation.tables.result import Result, ResultFault
from stores.damage import name_some


@dataclass(frozen=True, eq=False)
class Filled:
    """One system's numbers in a row: the paper's, and those of a result."""

    cells: PublishedCells
    category: str
    result: Result | None
    mark: str
    """Letter of the result below the table; empty without one."""

    @property
    def measured(self) -> tuple[Number | None, ...]:
        """Ours, in the order of METRICS; None without a result."""
        if self.result is None:
            return (None,) * len(METRICS)
        score = self.result.scores.categories[self.category]
        return tuple(getattr(score, metric) for metric in METRICS)


@dataclass(frozen=True, eq=False)
class FilledTable:
    """A table of the paper with what was measured."""

    table: Table
    rows: list[tuple[Row, list[Filled]]]
    used: dict[str, Result]
    """By their marks."""

    @property
    def cells(self) -> list[Filled]:
        """All systems of all rows."""
        return [filled for _, row in self.rows for filled in row]

    @property
    def counts(self) -> str:
        """How many cells are filled and how many are not, in words."""
        values = [value for filled in self.cells for value in filled.measured]
        empty = sum(value is None for value in values)
        unmeasured = sum(value == NOT_MEASURED for value in values)
        words = f"{len(values) - empty - unmeasured} of {len(values)} cells measured, {empty} empty"
        return words + (f", {unmeasured} not measured (no weights for LPIPS)" * bool(unmeasured))

    @property
    def lacking(self) -> list[str]:
        """The results that would fill the empty cells."""
        empty = [f"{filled.cells} ({filled.category})" for filled in self.cells if not filled.mark]
        return list(dict.fromkeys(empty))

    @property
    def notes(self) -> list[str]:
        """A line for each result: what it is, and what of it is not as in the paper."""
        return [f"[{mark}] {_about(result)}" for mark, result in self.used.items()]


def fill(table: Table, results: Sequence[Result]) -> FilledTable:
    """The table with every result that belongs into it.

    Raises ResultFault for two results of one cell, and for results that must not be compared:
    of other stores or clips for a category, of other evaluation sets, or scored otherwise.
    """
    own = [(row, cells) for row in table.rows for cells in row.cells]
    found = {(row.labels, cells.system): _only(table, row, cells, results) for row, cells in own}
    used = list(dict.fromkeys(result for result in found.values() if result))
    _check_comparable(table, results)
    marks = dict(zip(used, _letters(), strict=False))
    rows = [
        (row, [_filled(row, c, found[row.labels, c.system], marks) for c in row.cells])
        for row in table.rows
    ]
    return FilledTable(table, rows, {mark: result for result, mark in marks.items()})


def strangers(results: Iterable[Result]) -> list[Result]:
    """The results that fit no row of any table."""
    return [result for result in results if isinstance(result.system, str)]


def _filled(
    row: Row, cells: PublishedCells, result: Result | None, marks: dict[Result, str]
) -> Filled:
    return Filled(cells, row.category, result, marks[result] if result else "")


def _only(
    table: Table, row: Row, cells: PublishedCells, results: Sequence[Result]
) -> Result | None:
    """The one result for these cells, if there is one. Raises ResultFault for two."""
    of_cells = [
        result
        for result in results
        if result.system == cells.system and row.category in result.scores.categories
    ]
    if len(of_cells) > 1:
        raise ResultFault(
            "Two results belong into one row.",
            where=f"Table {table.number}, {', '.join(row.labels)}: {cells.system}",
            expected="one result of this system and category",
            got=" and ".join(result.name for result in of_cells),
            fix="Leave all but one out.",
        )
    return of_cells[0] if of_cells else None


def _check_comparable(table: Table, results: Sequence[Result]) -> None:
    """Raises ResultFault if two results of the table differ in what must be equal."""
    own = {cells.system for row in table.rows for cells in row.cells}
    categories = {row.category for row in table.rows}
    fitting = [result for result in results if result.system in own]
    _check_equal(table, "all", fitting, "evaluation set", lambda result: result.clip_set)
    _check_equal(table, "all", fitting, "method", _method)
    for category in sorted(categories):
        of_it = [result for result in fitting if category in result.scores.categories]
        _check_equal(table, category, of_it, "store", lambda r: r.settings.store_hash[:12])
        _check_equal(table, category, of_it, "clips", _clips)


def _check_equal(
    table: Table,
    rows: str,
    results: Sequence[Result],
    what: str,
    value: Callable[[Result], str],
) -> None:
    for other in results[1:]:
        first = results[0]
        if value(first) != value(other):
            raise ResultFault(
                "Results in one table must be of the same clips, scored in the same way.",
                where=f"Table {table.number}, {rows} rows, {what}: {first.name} and {other.name}",
                expected=value(first),
                got=value(other),
                fix="Sample and evaluate what is missing, or leave one of them out.",
            )


def _method(result: Result) -> str:
    method = result.scores.provenance["method"]
    return "; ".join(f"{name}: {method.get(name)}" for name in (*METRICS, "means"))


def _clips(result: Result) -> str:
    """How many clips, which by digest, and some of those that are missing."""
    clips, missing = sorted(result.scores.clips), sorted(result.scores.missing)
    digest = blake3.blake3(orjson.dumps([clips, missing])).hexdigest()
    words = f"{len(clips)} clips ({digest[:12]})"
    return words + (f" without {name_some(missing)}" if missing else "")


def _about(result: Result) -> str:
    settings = result.settings
    takes = ", ".join(f"{name} {result.takes(name)}" for name in result.scores.categories)
    wan = settings.origin.wan if settings.origin else None
    words = f"{result.name}: {result.system}, {result.clip_set}, takes: {takes}"
    words += f"; store {settings.store_hash[:12]}"
    words += f"; Wan {wan.spec} ({wan.fingerprint[:12]})" if wan else ""
    return words + "".join(f"; {note}" for note in result.notes)


def _letters() -> Iterator[str]:
    """a to z, then aa, ab and so on: there are never so many."""
    yield from ascii_lowercase
    yield from (first + second for first in ascii_lowercase for second in ascii_lowercase)
