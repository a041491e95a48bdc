"""Scoring a study: unblinds the votes, and says who preferred what and how sure that is."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from exo2ego.evaluation.study.agreement import krippendorff_alpha
from exo2ego.evaluation.study.ballots import Ballots, Participant, Vote
from exo2ego.evaluation.study.folder import BALLOTS, StudyFault, read_study
from exo2ego.evaluation.study.key import Key, read_key
from exo2ego.evaluation.study.preference import (
    BASELINE,
    NONE,
    OURS,
    Interval,
    Votes,
    bootstrap_intervals,
    score_ties_half,
    score_without_ties,
    tally,
    wilson_interval,
)
from exo2ego.training.checkpoint import software_versions
from stores.atomic import write_whole

SCORES, VOTES = "study-scores.json", "votes.csv"
COLUMNS = (
    *("participant", "sample", "clip_id", "category"),
    *("choice", "preferred", "ours_was", "cast_at"),
)
WORTH = {"ours": OURS, "none": NONE, "baseline": BASELINE}
METHOD = {
    "score": "(ours + none / 2) / votes",
    "without_ties": "ours / (ours + baseline)",
    "score_interval": "95 %, percentile bootstrap over participants and samples, 10,000 replicates",
    "without_ties_interval": "the same, of without_ties",
    "without_ties_wilson": "95 %, Wilson, as if votes were independent",
    "blue_share": "blue / (blue + red), with Wilson's interval: 0.5 if sides did not matter",
    "alpha_nominal": "Krippendorff's alpha of ours, none, baseline as names",
    "alpha_interval": "Krippendorff's alpha of 1, 0.5, 0 as numbers",
    "null": "not measured: too few votes, or not defined",
}


class Preference(BaseModel):
    """Votes of a category or of all, and their scores; None is not measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    votes: int = Field(description="cast")
    possible: int = Field(description="participants who voted x samples")
    ours: int = Field(description="for ours")
    none: int = Field(description="for neither")
    baseline: int = Field(description="for the baseline")
    score: float | None = Field(description="with ties at half, as the paper scores")
    score_interval: Interval | None = Field(description="bootstrap")
    without_ties: float | None = Field(description="share of ours among the decided")
    without_ties_interval: Interval | None = Field(description="bootstrap")
    without_ties_wilson: Interval | None = Field(description="Wilson")


class ParticipantScore(BaseModel):
    """One participant's part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    participant: int = Field(description="number of the invitation")
    votes: int = Field(description="cast")
    score: float | None = Field(description="with ties at half")
    submitted_at: str | None = Field(description="UTC, if submitted")


class StudyScores(BaseModel):
    """What study-scores.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    overall: Preference = Field(description="of all votes")
    categories: dict[str, Preference] = Field(description="of each category's samples")
    participants: list[ParticipantScore] = Field(description="those who have voted")
    invited: int = Field(description="links made; those without a vote count nowhere else")
    alpha_nominal: float | None = Field(description="agreement between participants")
    alpha_interval: float | None = Field(description="the same, none halfway between")
    blue_share: float | None = Field(description="of votes for a side, those for blue")
    blue_share_wilson: Interval | None = Field(description="Wilson")
    provenance: dict[str, Any] = Field(description="study, methods, votes, formulas, software")


@dataclass(frozen=True)
class Unblinded:
    """A vote, and what it was for."""

    vote: Vote
    clip_id: str
    category: str
    preferred: str
    """ours, none or baseline."""
    ours_was: str
    """blue or red."""


def score(
    folder: Path, *, out: Path | None = None, only_submitted: bool = False, seed: int = 0
) -> StudyScores:
    """Scores of a study so far, also written to `out` (the study's folder) with votes.csv.

    Votes count from when they are cast; with `only_submitted`, from when they are submitted.
    `seed` is the bootstrap's. Raises StudyFault if study, key and votes do not belong together, or
    if there is no vote.
    """
    study = read_study(folder)
    key = read_key(folder, study)
    ballots = Ballots.open(folder / BALLOTS, study.study_id)
    people, cast = ballots.participants(), ballots.votes()
    ballots.close()
    counted = {p.number for p in people if p.submitted_at or not only_submitted}
    votes = [unblind(vote, key, folder) for vote in cast if vote.participant in counted]
    if not votes:
        raise _no_votes(folder, people, len(cast))
    table = _csv(votes)
    scores = _score(votes, people, key, seed) | {
        "provenance": {
            **key.model_dump(exclude={"entries"}),
            **{"only_submitted": only_submitted, "bootstrap_seed": seed, "method": METHOD},
            "votes_digest": blake3.blake3(table).hexdigest(),
            "scored_with": software_versions(),
        }
    }
    found = StudyScores.model_validate(scores)
    write_whole((out or folder) / VOTES, table)
    write_whole((out or folder) / SCORES, found.model_dump_json(indent=2).encode())
    return found


def unblind(vote: Vote, key: Key, folder: Path) -> Unblinded:
    """What a vote was for. Raises StudyFault if it is about a video that its sample has not."""
    entry = key.entries.get(vote.sample_id)
    if entry is None or vote.blue not in (entry.ours, entry.baseline):
        raise StudyFault(
            "A vote is about something that this study does not show.",
            where=f"{folder / BALLOTS}, participant {vote.participant}",
            expected="a sample of the key, and one of its two candidates as blue",
            got=f"sample {vote.sample_id}, blue {vote.blue}",
            fix="Put back the key.json and votes.sqlite that belong together.",
        )
    ours_was, other = ("blue", "red") if vote.blue == entry.ours else ("red", "blue")
    preferred = {"none": "none", ours_was: "ours", other: "baseline"}[vote.choice]
    return Unblinded(vote, entry.clip_id, entry.category, preferred, ours_was)


def _score(
    votes: Sequence[Unblinded], people: Sequence[Participant], key: Key, seed: int
) -> dict[str, Any]:
    """Every figure but the provenance."""
    numbers = sorted({item.vote.participant for item in votes})
    columns = {sample: column for column, sample in enumerate(sorted(key.entries))}
    matrix = np.full((len(numbers), len(columns)), np.nan)
    for item in votes:
        place = numbers.index(item.vote.participant), columns[item.vote.sample_id]
        matrix[place] = WORTH[item.preferred]
    category_of = np.array([key.entries[sample].category for sample in columns])
    blue, red = (sum(item.vote.choice == side for item in votes) for side in ("blue", "red"))
    submitted = {person.number: person.submitted_at for person in people}
    return {
        "overall": _preference(matrix, seed),
        "categories": {
            name: _preference(matrix[:, category_of == name], seed)
            for name in sorted(set(category_of.tolist()))
        },
        "participants": [
            _participant(number, matrix[row], submitted[number])
            for row, number in enumerate(numbers)
        ],
        "invited": len(people),
        "alpha_nominal": krippendorff_alpha(matrix, "nominal"),
        "alpha_interval": krippendorff_alpha(matrix, "interval"),
        "blue_share": blue / (blue + red) if blue + red else None,
        "blue_share_wilson": wilson_interval(blue, blue + red),
    }


def _preference(matrix: Votes, seed: int) -> Preference:
    counts = tally(matrix)
    intervals = bootstrap_intervals(matrix, seed=seed)
    return Preference(
        votes=counts.votes,
        possible=matrix.size,
        ours=counts.ours,
        none=counts.none,
        baseline=counts.baseline,
        score=score_ties_half(counts),
        score_interval=intervals["ties_half"],
        without_ties=score_without_ties(counts),
        without_ties_interval=intervals["without_ties"],
        without_ties_wilson=wilson_interval(counts.ours, counts.ours + counts.baseline),
    )


def _participant(number: int, row: np.ndarray, submitted_at: str | None) -> ParticipantScore:
    counts = tally(row[None])
    return ParticipantScore(
        participant=number,
        votes=counts.votes,
        score=score_ties_half(counts),
        submitted_at=submitted_at,
    )


def _csv(votes: Sequence[Unblinded]) -> bytes:
    """A line a vote, under COLUMNS; no tokens."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for item in votes:
        vote = item.vote
        about = (item.clip_id, item.category, vote.choice, item.preferred, item.ours_was)
        table.writerow([vote.participant, vote.sample_id, *about, vote.cast_at])
    return text.getvalue().encode()


def _no_votes(folder: Path, people: Sequence[Participant], cast: int) -> StudyFault:
    submitted = sum(person.submitted_at is not None for person in people)
    return StudyFault(
        "There are no votes to score.",
        where=folder / BALLOTS,
        expected="at least one vote that counts",
        got=f"{len(people)} invited, {submitted} submitted, {cast} votes",
        fix="Wait for votes, or count those that are not submitted, too.",
    )
