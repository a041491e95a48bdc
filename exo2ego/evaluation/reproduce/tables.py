"""What `exo2ego reproduce` makes, by name: a table's steps, and its page when they are done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exo2ego.evaluation.reproduce.mini import mini_results, mini_ways, plan_mini
from exo2ego.evaluation.reproduce.mini_sheet import draw_sheet
from exo2ego.evaluation.reproduce.mini_tables import MINI_TABLES
from exo2ego.evaluation.reproduce.plan import plan_stores, plan_table, results_of
from exo2ego.evaluation.reproduce.settings import PlannedStore, ReproduceFault, Ways
from exo2ego.evaluation.reproduce.step import Step
from exo2ego.evaluation.tables.evidence import evidence
from exo2ego.evaluation.tables.page import Section, tables_page
from exo2ego.evaluation.tables.published import published_tables
from exo2ego.evaluation.tables.seed_scores import read_seeds, write_scores
from stores.reading import Store

PAPER_TABLES = {f"table{table.number}": table for table in published_tables()}


@dataclass(frozen=True)
class Reproduction:
    """One table."""

    steps: Sequence[Step]
    sections: Callable[[], Sequence[Section]]
    """Reads the scores that the steps have made; of mini's, it writes a picture and a CSV, too."""


def plan_reproduction(
    name: str, stores: Mapping[str, Store], out: Path, ways: Ways, seeds: int
) -> Reproduction:
    """The table of this name, of stores by the names that commands use, in folders below `out`.

    `seeds` is of mini's tables. Raises ReproduceFault for a name that is none, for stores that do
    not serve for it, and for several where it is of one.
    """
    if name in PAPER_TABLES:
        table, planned = PAPER_TABLES[name], plan_stores(stores, out, ways)
        return Reproduction(
            plan_table(table, planned),
            lambda: tables_page(results_of(table, planned), [table.number]),
        )
    if name not in MINI_TABLES:
        raise ReproduceFault(
            "There is no such table.",
            where=f"reproduce {name}",
            expected=", ".join([*PAPER_TABLES, *MINI_TABLES]),
            got=name,
            fix="Give one of these.",
        )
    if len(stores) != 1:
        raise ReproduceFault(
            "A table of the miniature world is of one store.",
            where="--store",
            expected="one",
            got=", ".join(stores),
            fix="Reproduce each store into a folder of its own.",
        )
    return _mini(name, plan_stores(stores, out, mini_ways(ways))[0], seeds)


def _mini(name: str, planned: PlannedStore, seeds: int) -> Reproduction:
    table = MINI_TABLES[name]
    results = mini_results(planned, table, seeds)

    def sections() -> list[Section]:
        shown = {row: folders[0] for row, folders in results.items()}
        draw_sheet(planned.store, shown, planned.out / f"{name}.png")
        scores = read_seeds(results)
        write_scores(planned.out / f"{name}.csv", scores)
        return evidence(scores, table.compared)

    return Reproduction(plan_mini(planned, table, seeds), sections)
