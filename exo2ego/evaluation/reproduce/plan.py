"""Which steps a table of the paper needs on some stores, in order; rows share what they can."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from exo2ego.evaluation.reproduce.commands import system_steps
from exo2ego.evaluation.reproduce.settings import PlannedStore, ReproduceFault, Ways
from exo2ego.evaluation.reproduce.step import KINDS, Step
from exo2ego.evaluation.tables.published import System, Table
from exo2ego.evaluation.tables.result import SCORES
from stores.reading import Store


def plan_stores(stores: Mapping[str, Store], out: Path, ways: Ways) -> list[PlannedStore]:
    """The stores by the names that commands use, each with a folder of its own below `out`.

    Raises ReproduceFault if two of them would share a folder.
    """
    planned = [
        PlannedStore(name, store, out / store.path.name.removesuffix(".store"), ways)
        for name, store in stores.items()
    ]
    folders: dict[Path, str] = {}
    for one in planned:
        if one.out in folders:
            raise ReproduceFault(
                "Two stores would share a folder.",
                where=f"--store {folders[one.out]}, --store {one.name}",
                expected="stores of different names",
                got=f"both go to {one.out}",
                fix="Rename one, or reproduce them into different folders.",
            )
        folders[one.out] = one.name
    return planned


def plan_table(table: Table, stores: Sequence[PlannedStore]) -> list[Step]:
    """Every step for the rows whose categories the stores' evaluation clips have, in order.

    Raises ReproduceFault if a store has none of them, or two stores the same.
    """
    _check_categories(table, stores)
    found: dict[tuple[str, str, str], Step] = {}
    for planned in stores:
        for system in _systems(table, planned.categories):
            for step in system_steps(planned, system):
                found.setdefault((planned.name, step.kind, step.name), step)
    return sorted(found.values(), key=lambda step: KINDS.index(step.kind))


def results_of(table: Table, stores: Sequence[PlannedStore]) -> list[Path]:
    """The scores of the table's systems that are there."""
    folders = [
        planned.samples(system)
        for planned in stores
        for system in _systems(table, planned.categories)
    ]
    return [folder for folder in folders if (folder / SCORES).is_file()]


def _systems(table: Table, categories: set[str]) -> list[System]:
    """The systems of the rows of these categories, each once."""
    rows = [row for row in table.rows if row.category in categories]
    return list(dict.fromkeys(cells.system for row in rows for cells in row.cells))


def _check_categories(table: Table, stores: Sequence[PlannedStore]) -> None:
    wanted = sorted({row.category for row in table.rows})
    seen: dict[str, str] = {}
    for planned in stores:
        own = planned.categories
        if not own.intersection(wanted):
            raise _fault(table, planned.name, f"one of {', '.join(wanted)}", ", ".join(sorted(own)))
        for category in sorted(own.intersection(seen)):
            other = f"{category} in {seen[category]}, too"
            raise _fault(table, planned.name, "a category in one store alone", other)
        seen |= dict.fromkeys(own, planned.name)


def _fault(table: Table, name: str, expected: str, got: str) -> ReproduceFault:
    return ReproduceFault(
        f"This store does not serve for Table {table.number}.",
        where=f"--store {name}, its evaluation clips' categories",
        expected=expected,
        got=got,
        fix="Give other stores, or choose another --clips set.",
    )
