"""Systems side by side over several seeds: means over takes, their intervals, what each gains."""

from collections.abc import Sequence
from dataclasses import dataclass

from exo2ego.evaluation.bootstrap import mean_interval
from exo2ego.evaluation.tables.page import Section
from exo2ego.evaluation.tables.seed_scores import MEASURED, SeedScores

HEADINGS = ("PSNR↑", "SSIM↑", "view bias↓", "motion on time↑", "lateness (0)", "sharpness (0)")
DIGITS = (2, 3, 3, 3, 3, 2)
COLUMNS = dict(zip(MEASURED, zip(HEADINGS, DIGITS, strict=True), strict=True))
GAINS = ("psnr", "ssim", "motion_on_time")
"""Of which what one system gains over another is told."""


@dataclass(frozen=True)
class _Row:
    """A system's scores, one a seed."""

    name: str
    seeds: dict[int, SeedScores]

    def takes(self, measure: str) -> dict[str, float]:
        """By take, the mean over the seeds that have the measure there."""
        values: dict[str, list[float]] = {}
        for scores in self.seeds.values():
            for take, of_take in scores.takes.items():
                if measure in of_take:
                    values.setdefault(take, []).append(of_take[measure])
        return {take: sum(of) / len(of) for take, of in values.items()}


def evidence(scores: Sequence[SeedScores], ours: str) -> list[Section]:
    """The systems' table, and one of what `ours` gains over each.

    A row is the mean over takes of the mean over seeds; its interval is of the takes. Gains are of
    the same takes, so that scenes that are hard for all do not hide them. Notes say which stores.
    """
    found: dict[str, dict[int, SeedScores]] = {}
    for one in scores:
        found.setdefault(one.system, {})[one.seed] = one
    rows = [_Row(name, seeds) for name, seeds in found.items()]
    header = ["system", "seeds", "clips", *HEADINGS]
    cells = [[row.name, str(len(row.seeds)), _clips(row), *_means(row)] for row in rows]
    title = "Means over takes, and where they lie (95 %)"
    sections = [Section(title, header, cells, _stores(scores))]
    own = next((row for row in rows if row.name == ours), None)
    if own is not None:
        sections.append(_gains(own, [row for row in rows if row is not own]))
    return sections


def _stores(scores: Sequence[SeedScores]) -> list[str]:
    """A line a store: which systems' seeds are of it, if there are several."""
    of: dict[str, list[str]] = {}
    for one in scores:
        of.setdefault(one.store_hash[:12], []).append(one.name)
    if len(of) == 1:
        return [f"Store {next(iter(of))}."]
    return [f"Store {store}: {'; '.join(names)}." for store, names in of.items()]


def _clips(row: _Row) -> str:
    scores = next(iter(row.seeds.values()))
    return f"{scores.clips} of {len(scores.takes)} takes"


def _means(row: _Row) -> list[str]:
    found = []
    for measure, (_, digits) in COLUMNS.items():
        values = list(row.takes(measure).values())
        found.append(_interval(values, f"{row.name}/{measure}", digits))
    return found


def _gains(own: _Row, others: Sequence[_Row]) -> Section:
    header = [f"{own.name} less", *(COLUMNS[measure][0] for measure in GAINS), "PSNR by seed"]
    rows = [[other.name, *_differences(own, other), _by_seed(own, other)] for other in others]
    return Section(f"What {own.name} gains, take by take", header, rows)


def _differences(own: _Row, other: _Row) -> list[str]:
    found = []
    for measure in GAINS:
        mine, theirs = own.takes(measure), other.takes(measure)
        values = [mine[take] - theirs[take] for take in mine if take in theirs]
        name = f"{own.name} less {other.name}/{measure}"
        found.append(_interval(values, name, COLUMNS[measure][1], sign="+"))
    return found


def _by_seed(own: _Row, other: _Row) -> str:
    both = sorted(own.seeds.keys() & other.seeds.keys())
    pairs = [(own.seeds[seed].mean("psnr"), other.seeds[seed].mean("psnr")) for seed in both]
    return ", ".join(f"{mine - theirs:+.2f}" for mine, theirs in pairs)


def _interval(values: Sequence[float], name: str, digits: int, sign: str = "") -> str:
    if not values:
        return "not measured"
    mean = f"{sum(values) / len(values):{sign}.{digits}f}"
    ends = mean_interval(values, name)
    if ends is None:
        return mean
    return f"{mean} ({ends[0]:{sign}.{digits}f} to {ends[1]:{sign}.{digits}f})"
