"""Two results clip by clip: differences, who is better, and what the mean difference is worth."""

from dataclasses import dataclass

from exo2ego.evaluation.bootstrap import mean_interval
from exo2ego.evaluation.report.clips import ReportResult
from exo2ego.evaluation.tables.claims import BETTER
from exo2ego.evaluation.tables.result import ResultFault
from stores.damage import name_some


@dataclass(frozen=True)
class MetricComparison:
    """One metric over all clips that both have."""

    metric: str
    mean: float
    """Second less first: of clips, then takes."""
    interval: tuple[float, float] | None
    """Of 95 %, over takes; None for a single take."""
    better: int
    """Clips in which the second is better."""
    worse: int
    equal: int


@dataclass(frozen=True)
class Comparison:
    """The second result against the first."""

    metrics: list[MetricComparison]
    differences: dict[str, dict[str, float]]
    """By clip, by metric: second less first."""


def compare(first: ReportResult, second: ReportResult) -> Comparison:
    """The comparison. Raises ResultFault unless both are of the same clips, scored alike."""
    check_comparable(first, second)
    metrics = [metric for metric in BETTER if _is_measured(first, second, metric)]
    differences = {
        clip_id: {metric: _difference(first, second, clip_id, metric) for metric in metrics}
        for clip_id in first.clips
    }
    found = [_over_clips(first, differences, metric) for metric in metrics]
    return Comparison(found, differences)


def check_comparable(first: ReportResult, second: ReportResult) -> None:
    """Raises ResultFault for another store, other clips, or another method."""
    facts = {
        "store": [one.result.settings.store_hash[:12] for one in (first, second)],
        "method": [str(one.result.scores.provenance["method"]) for one in (first, second)],
    }
    for what, (expected, got) in facts.items():
        if expected != got:
            raise _fault(first, second, what, expected, got)
    if others := set(first.clips) ^ set(second.clips):
        counts = (f"the same {len(first.clips)} clips", f"{len(second.clips)} clips")
        differing = f"{counts[1]}; in one alone: {name_some(sorted(others))}"
        raise _fault(first, second, "clips", counts[0], differing)


def _over_clips(
    first: ReportResult, differences: dict[str, dict[str, float]], metric: str
) -> MetricComparison:
    takes: dict[str, list[float]] = {}
    for clip_id, of_clip in differences.items():
        takes.setdefault(first.clips[clip_id].take_name, []).append(of_clip[metric])
    means = [sum(values) / len(values) for values in takes.values()]
    signed = [BETTER[metric] * of_clip[metric] for of_clip in differences.values()]
    counts = (sum(value > 0 for value in signed), sum(value < 0 for value in signed))
    mean, interval = sum(means) / len(means), mean_interval(means, f"difference/{metric}")
    return MetricComparison(metric, mean, interval, *counts, len(signed) - sum(counts))


def _is_measured(first: ReportResult, second: ReportResult, metric: str) -> bool:
    return not any(
        isinstance(getattr(clip.score, metric), str)
        for one in (first, second)
        for clip in one.clips.values()
    )


def _difference(first: ReportResult, second: ReportResult, clip_id: str, metric: str) -> float:
    a, b = (getattr(one.clips[clip_id].score, metric) for one in (first, second))
    return 0.0 if a == b else b - a  # two infinite PSNR are equal


def _fault(
    first: ReportResult, second: ReportResult, what: str, expected: str, got: str
) -> ResultFault:
    return ResultFault(
        "Results that are compared must be of the same clips, scored in the same way.",
        where=f"{first.result.name} and {second.result.name}, {what}",
        expected=expected,
        got=got,
        fix="Sample and evaluate both on the same store and clips, with one version.",
    )
