"""From votes to a preference: the two scores of a tally, and how sure they are."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

OURS, NONE, BASELINE = 1.0, 0.5, 0.0
"""What a vote scores (paper, section 4.2)."""
Z_95 = 1.959963984540054
"""Standard normal quantile of 0.975."""
REPLICATES = 10_000
"""Of the bootstrap."""
Interval = tuple[float, float]
Votes = Float64[np.ndarray, "participants samples"]
"""OURS, NONE or BASELINE; NaN where there is no vote."""


@dataclass(frozen=True)
class Tally:
    """Counts of votes."""

    ours: int
    none: int
    baseline: int

    @property
    def votes(self) -> int:
        """All of them."""
        return self.ours + self.none + self.baseline


def tally(votes: Votes) -> Tally:
    """How many votes went where."""
    counts = [int((votes == value).sum()) for value in (OURS, NONE, BASELINE)]
    return Tally(*counts)


def score_ties_half(counts: Tally) -> float | None:
    """(ours + none / 2) / votes, the paper's final score; None without a vote."""
    return (counts.ours + NONE * counts.none) / counts.votes if counts.votes else None


def score_without_ties(counts: Tally) -> float | None:
    """ours / (ours + baseline); None if nobody preferred either."""
    decided = counts.ours + counts.baseline
    return counts.ours / decided if decided else None


def wilson_interval(successes: int, trials: int) -> Interval | None:
    """95 % interval of a proportion, if votes were independent; None without a trial.

    Source: Wilson, Probable inference (1927), eq. 4, without continuity correction.
    """
    if not trials:
        return None
    share, z2 = successes / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = share * (1 - share) / trials + z2 / (4 * trials**2)
    half = Z_95 * spread**0.5 / (1 + z2 / trials)
    return centre - half, centre + half


def bootstrap_intervals(votes: Votes, *, seed: int) -> dict[str, Interval | None]:
    """95 % percentile intervals of both scores, `ties_half` and `without_ties`.

    Participants and samples are both drawn again with replacement, since votes of one person, and
    votes on one sample, are alike. A replicate without a vote that counts has no score and is left
    out. None with fewer than two participants or samples that have votes.
    Source: Owen, The pigeonhole bootstrap (2007).
    """
    cast = ~np.isnan(votes)
    votes = votes[cast.any(1)][:, cast.any(0)]
    if min(votes.shape) < 2:
        return {"ties_half": None, "without_ties": None}
    rng = np.random.default_rng(seed)

    def redrawn(count: int) -> Float64[np.ndarray, "replicates count"]:
        return rng.multinomial(count, np.full(count, 1 / count), REPLICATES).astype(float)

    people, samples = map(redrawn, votes.shape)

    def counted(of: np.ndarray) -> Float64[np.ndarray, " replicates"]:
        return ((people @ of.astype(float)) * samples).sum(1)

    ours, none, baseline = (counted(votes == value) for value in (OURS, NONE, BASELINE))
    return {
        "ties_half": _percentiles(ours + NONE * none, ours + none + baseline),
        "without_ties": _percentiles(ours, ours + baseline),
    }


def _percentiles(
    part: Float64[np.ndarray, " replicates"], whole: Float64[np.ndarray, " replicates"]
) -> Interval | None:
    """2.5 and 97.5 % of the shares; None if no replicate has one."""
    if not (has := whole > 0).any():
        return None
    low, high = np.percentile(part[has] / whole[has], [2.5, 97.5])
    return float(low), float(high)
