"""What the paper says of its tables, computed again from cells: the published ones, and ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from exo2ego.evaluation.tables.fill import Filled, FilledTable
from exo2ego.evaluation.tables.published import METRICS

Scores = tuple[float, float, float]
"""PSNR, SSIM, LPIPS."""
Place = tuple[int, tuple[str, ...], int]
"""A system's cells: number of the table, labels of the row, number of the system in it."""
Found = dict[Place, Scores]

BETTER = {"psnr": 1, "ssim": 1, "lpips": -1}
"""Sign of an improvement."""
ABOUT_PERCENT = 1.0
"""Choice: "approximately N %" follows from cells that give N within one percentage point."""
CATEGORIES = ("Bike", "Basketball", "CPR", "Covid")


@dataclass(frozen=True)
class Verdict:
    """Whether something follows from cells."""

    follows: bool | None
    """None: cells are missing."""
    because: str


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper on its tables."""

    source: str
    says: str
    places: tuple[Place, ...]
    judge: Callable[[Found], Verdict]

    def of(self, found: Found) -> Verdict:
        """The verdict from these cells; none if one that it needs is missing."""
        if lacking := [place for place in self.places if place not in found]:
            return Verdict(None, f"{len(lacking)} of {len(self.places)} rows lack a number")
        return self.judge(found)


def published_scores(tables: Sequence[FilledTable]) -> Found:
    """The paper's cells by their places."""
    return {place: filled.cells.scores for place, filled in _places(tables)}


def measured_scores(tables: Sequence[FilledTable]) -> Found:
    """Ours, where all three metrics are measured."""
    found: Found = {}
    for place, filled in _places(tables):
        match filled.measured:
            case (float(psnr), float(ssim), float(lpips)):
                found[place] = (psnr, ssim, lpips)
    return found


def claims() -> list[Claim]:
    """All of them, in the paper's order."""
    ours = [((1, (c, "Ours"), 0), (1, (c, "VAWAN"), 0)) for c in CATEGORIES]
    align, without, truth = (
        (2, ("MultiExoCon", f"{name}"), 0)
        for name in ("+EgoExo-Align", "-EgoExo-Align", "+GT frame")
    )
    arcs = [("Cross-Attn", "N"), ("Cross-Attn", "Y"), ("Pixel-Nerf", "Y"), ("ST-TransformerS", "Y")]
    large = (3, ("VAWAN", "ST-TransformerL", "Y"), 0)
    injected = [((4, (c,), 1), (4, (c,), 0)) for c in ("Bike (gt-frame)", *CATEGORIES)]
    one, four, whole = (
        (5, ("VAWAN-AC3D", *name), 0) for name in (("1", "LoRA"), ("4", "LoRA"), ("4", "Whole"))
    )
    views = ((6, ("AC3D (512)", "4"), 0), (6, ("AC3D (512)", "1"), 0))
    return [
        _better("4.2", "ours outperforms VAWAN in all four categories (Table 1)", ours),
        _change("4.2", "about 10 % more SSIM on average (Table 1)", ours, "ssim", 10.0),
        _change("4.2", "16 % less LPIPS on average (Table 1)", ours, "lpips", -16.0),
        _better("4.3", "removing EgoExo-Align is a degradation (Table 2)", [(align, without)]),
        _better("4.3", "the true first frame is an upper bound (Table 2)", [(truth, align)]),
        _better(
            "4.3",
            "the STTransformer is the best architecture (Table 3)",
            [(large, (3, ("VAWAN", *arc), 0)) for arc in arcs],
        ),
        _better("4.3", "PoseInj is better in all its rows (Table 4)", injected),
        _better("4.3", "training the whole model overfits (Table 5)", [(four, whole)]),
        _better("4.3", "more exo views are generally better (Table 5)", [(four, one)]),
        _better(
            "4.3",
            "more exo views are better given the true frame, too (Table 6; not claimed there)",
            [views],
        ),
    ]


def contradictions(tables: Sequence[FilledTable]) -> list[str]:
    """Published cells of one system and category that differ from table to table, in words."""
    found = [(place, filled) for place, filled in _places(tables)]
    return [
        f"{a.cells} ({a.category}): {_words(place)} {_numbers(a)}, {_words(other)} {_numbers(b)}"
        for (place, a), (other, b) in combinations(found, 2)
        if (a.cells.system, a.category) == (b.cells.system, b.category)
        and a.cells.scores != b.cells.scores
    ]


def _places(tables: Sequence[FilledTable]) -> list[tuple[Place, Filled]]:
    return [
        ((filled_table.table.number, row.labels, number), filled)
        for filled_table in tables
        for row, cells in filled_table.rows
        for number, filled in enumerate(cells)
    ]


def _better(source: str, says: str, pairs: Sequence[tuple[Place, Place]]) -> Claim:
    """The first of each pair is better than the second by each metric."""

    def judge(found: Found) -> Verdict:
        worse = [
            f"{metric.upper()} {found[a][k]:.4f} against {found[b][k]:.4f} ({_words(a)})"
            for a, b in pairs
            for k, (metric, sign) in enumerate(BETTER.items())
            if sign * (found[a][k] - found[b][k]) <= 0
        ]
        count = len(pairs) * len(BETTER)
        words = f"{count - len(worse)} of {count} comparisons"
        return Verdict(not worse, "; not ".join([words, *worse]))

    return Claim(source, says, tuple(dict.fromkeys(p for pair in pairs for p in pair)), judge)


def _change(
    source: str, says: str, pairs: Sequence[tuple[Place, Place]], metric: str, percent: float
) -> Claim:
    """The mean of the pairs' relative changes is that many percent, about."""
    k = list(METRICS).index(metric)

    def judge(found: Found) -> Verdict:
        changes = [100 * (found[a][k] / found[b][k] - 1) for a, b in pairs]
        mean = sum(changes) / len(changes)
        each = ", ".join(f"{change:+.1f}" for change in changes)
        return Verdict(abs(mean - percent) <= ABOUT_PERCENT, f"{mean:+.1f} % ({each})")

    return Claim(source, says, tuple(p for pair in pairs for p in pair), judge)


def _words(place: Place) -> str:
    number, labels, system = place
    return f"Table {number}, {' '.join(labels)}" + (f", column group {system + 1}" * bool(system))


def _numbers(filled: Filled) -> str:
    return " / ".join(f"{score:.4f}" for score in filled.cells.scores)
