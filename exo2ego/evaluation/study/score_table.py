"""A study's scores as people read them."""

from exo2ego.evaluation.study.preference import Interval
from exo2ego.evaluation.study.score import Preference, StudyScores

COLUMNS = [
    "category",
    "votes",
    "ours",
    "none",
    "baseline",
    "score (ties 1/2)",
    "95 %",
    "without ties",
    "95 %",
    "Wilson",
]
NOT_MEASURED = "not measured"


def score_rows(scores: StudyScores) -> list[list[str]]:
    """A row a category, then one of all votes, under COLUMNS."""
    groups = {**scores.categories, "all": scores.overall}
    return [[name, *_cells(group)] for name, group in groups.items()]


def agreement_lines(scores: StudyScores) -> list[str]:
    """Who voted, how far they agree, and whether a side was favoured."""
    voted = len(scores.participants)
    submitted = sum(person.submitted_at is not None for person in scores.participants)
    return [
        f"participants: {scores.invited} invited, {voted} counted, {submitted} of them submitted",
        f"agreement, Krippendorff's alpha: {_number(scores.alpha_nominal)} (nominal), "
        f"{_number(scores.alpha_interval)} (interval)",
        f"blue among votes for a side: {_number(scores.blue_share)} "
        f"{_interval(scores.blue_share_wilson)}; 0.5 if sides did not matter",
        "95 %: bootstrap over participants and samples; Wilson: as if votes were independent",
    ]


def _cells(group: Preference) -> list[str]:
    counts = [str(count) for count in (group.ours, group.none, group.baseline)]
    return [
        f"{group.votes} of {group.possible}",
        *counts,
        _number(group.score),
        _interval(group.score_interval),
        _number(group.without_ties),
        _interval(group.without_ties_interval),
        _interval(group.without_ties_wilson),
    ]


def _number(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"


def _interval(value: Interval | None) -> str:
    return NOT_MEASURED if value is None else f"[{value[0]:.3f}, {value[1]:.3f}]"
