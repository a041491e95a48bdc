"""A study's scores as people read them."""

from exo2ego.evaluation.study.preference import Interval
from exo2ego.evaluation.study.score import Preference, StudyScores

COUNTS = ["category", "votes", "ours", "none", "baseline"]
SCORES = ["category", "score, ties at 1/2", "without ties", "Wilson"]
NOT_MEASURED = "not measured"


def count_rows(scores: StudyScores) -> list[list[str]]:
    """A row a category, then one of all votes, under COUNTS."""
    return [
        [name, f"{group.votes} of {group.possible}", *map(str, _counts(group))]
        for name, group in _groups(scores).items()
    ]


def score_rows(scores: StudyScores) -> list[list[str]]:
    """The same rows, under SCORES."""
    return [
        [
            name,
            f"{_number(group.score)} {_interval(group.score_interval)}",
            f"{_number(group.without_ties)} {_interval(group.without_ties_interval)}",
            _interval(group.without_ties_wilson),
        ]
        for name, group in _groups(scores).items()
    ]


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
        "in brackets 95 %: bootstrap over participants and samples; "
        "Wilson (without ties): as if votes were independent",
    ]


def _groups(scores: StudyScores) -> dict[str, Preference]:
    return {**scores.categories, "all": scores.overall}


def _counts(group: Preference) -> tuple[int, int, int]:
    return group.ours, group.none, group.baseline


def _number(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3f}"


def _interval(value: Interval | None) -> str:
    return NOT_MEASURED if value is None else f"[{value[0]:.3f}, {value[1]:.3f}]"
