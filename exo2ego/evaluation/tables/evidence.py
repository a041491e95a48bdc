"""Systems side by side over several seeds: means over takes, their intervals, what each gains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exo2ego.evaluation.bootstrap import mean_interval
from exo2ego.evaluation.scores import Score, Scores
from exo2ego.evaluation.tables.page import Section
from exo2ego.evaluation.tables.result import SCORES, ResultFault, read_result

COLUMNS = {
    "psnr": ("PSNR↑", 2),
    "ssim": ("SSIM↑", 3),
    "view_bias_pixels": ("view bias↓", 3),
    "timing_error_frames": ("timing error↓", 2),
    "motion_agreement": ("motion agreement↑", 3),
    "sharpness_log2": ("sharpness (0)", 2),
}
"""Measures that need no weights of others, their headings and decimals."""
GAINS = ("psnr", "ssim", "motion_agreement")
"""Of which what one system gains over another is told."""


@dataclass(frozen=True, eq=False)
class _Row:
    """A system's scores, one a seed."""

    name: str
    seeds: dict[int, Scores]
    """By seed, of those that are scored."""

    def takes(self, measure: str) -> dict[str, float]:
        """By take, the mean over the seeds that have the measure there."""
        values: dict[str, list[float]] = {}
        for scores in self.seeds.values():
            for take, score in scores.takes.items():
                value = _value(score, measure)
                if value is not None:
                    values.setdefault(take, []).append(value)
        return {take: sum(of) / len(of) for take, of in values.items()}


def evidence(results: Mapping[str, Sequence[Path]], ours: str) -> list[Section]:
    """The systems' table, and one of what `ours` gains over each, from folders that are scored.

    A row is the mean over takes of the mean over seeds; its interval is of the takes. Gains are of
    the same takes, so that scenes that are hard for all do not hide them. Folders that are not
    scored are left out, and seeds are counted. Raises ResultFault for scores of other clips.
    """
    rows = [_Row(name, _scores(folders)) for name, folders in results.items()]
    rows = [row for row in rows if row.seeds]
    _check_same_clips(rows)
    header = ["system", "seeds", "clips", *(heading for heading, _ in COLUMNS.values())]
    cells = [[row.name, str(len(row.seeds)), _clips(row), *_means(row)] for row in rows]
    sections = [Section("Means over takes, and where they lie (95 %)", header, cells)]
    own = next((row for row in rows if row.name == ours), None)
    if own is not None:
        sections.append(_gains(own, [row for row in rows if row is not own]))
    return sections


def _scores(folders: Sequence[Path]) -> dict[int, Scores]:
    there = {seed: at for seed, at in enumerate(folders) if (at / SCORES).is_file()}
    return {seed: read_result(folder).scores for seed, folder in there.items()}


def _check_same_clips(rows: Sequence[_Row]) -> None:
    whole = {frozenset(scores.clips) for row in rows for scores in row.seeds.values()}
    if len(whole) > 1:
        raise ResultFault(
            "These scores are of different clips.",
            where=", ".join(row.name for row in rows),
            expected="the same clips everywhere",
            got=f"{len(whole)} sets of clips, of {sorted(map(len, whole))} clips",
            fix="Sample and score what is missing; the plan says what is there.",
        )


def _clips(row: _Row) -> str:
    scores = next(iter(row.seeds.values()))
    return f"{len(scores.clips)} of {len(scores.takes)} takes"


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
    pairs = [(own.seeds[seed].overall.psnr, other.seeds[seed].overall.psnr) for seed in both]
    return ", ".join(f"{mine - theirs:+.2f}" for mine, theirs in pairs)


def _interval(values: Sequence[float], name: str, digits: int, sign: str = "") -> str:
    if not values:
        return "not measured"
    mean = f"{sum(values) / len(values):{sign}.{digits}f}"
    ends = mean_interval(values, name)
    if ends is None:
        return mean
    return f"{mean} ({ends[0]:{sign}.{digits}f} to {ends[1]:{sign}.{digits}f})"


def _value(score: Score, measure: str) -> float | None:
    value = getattr(score, measure)
    return None if isinstance(value, str) else float(value)
