"""Krippendorff's alpha: how far participants agree beyond chance, with gaps."""

from typing import Literal

import numpy as np
from jaxtyping import Float64

Level = Literal["nominal", "interval"]
"""Disagreement of two answers: 1 if they differ, or the square of their difference."""


def krippendorff_alpha(
    answers: Float64[np.ndarray, "participants samples"], level: Level
) -> float | None:
    """1 for full agreement, 0 for that of chance, negative below it; NaN marks a gap.

    None if it is not defined: no sample has two answers, or all answers are the same.
    Source: Krippendorff, Computing Krippendorff's alpha-reliability (2011), by coincidences.
    """
    counts, values = _counts(answers)
    counts = counts[counts.sum(1) >= 2]  # a lone answer has nothing to agree with
    if not counts.size:
        return None
    per_sample = counts.sum(1)
    difference = values[:, None] - values
    distance = difference**2 if level == "interval" else (difference != 0).astype(float)
    pairs = np.einsum("sv,sw->svw", counts, counts) - np.einsum(
        "sv,vw->svw", counts, np.eye(len(values))
    )
    coincidences = np.einsum("svw,s->vw", pairs, 1 / (per_sample - 1))
    totals = coincidences.sum(1)
    observed = (coincidences * distance).sum()
    expected = (np.outer(totals, totals) * distance).sum() / (totals.sum() - 1)
    return float(1 - observed / expected) if expected else None


def _counts(
    answers: Float64[np.ndarray, "participants samples"],
) -> tuple[Float64[np.ndarray, "samples values"], Float64[np.ndarray, " values"]]:
    """How often each sample was given each value, and the values."""
    values = np.unique(answers[~np.isnan(answers)])
    counts = (answers[:, :, None] == values).sum(0).astype(float)
    return counts, values
