"""Confidence intervals of means over takes: a percentile bootstrap (Efron 1979), seeded."""

from collections.abc import Sequence

import blake3
import numpy as np

RESAMPLES = 10_000
"""Choice: the paper gives no intervals."""
LEVEL = 0.95
SEED = 0
_CHUNK = 1_000  # resamples at once: memory does not grow with their number


def mean_interval(values: Sequence[float], name: str) -> tuple[float, float] | None:
    """Where 95 % of the means over resampled values lie; None for fewer than two values.

    Values (a take's each) are drawn with replacement, as many as there are, RESAMPLES times; the
    ends are means that were drawn, none is interpolated. The draws depend on `name` and the number
    of values alone.
    """
    if len(values) < 2:
        return None
    means = np.sort(_resampled_means(np.asarray(values, dtype=np.float64), name))
    tail = (1 - LEVEL) / 2
    low, high = int(tail * RESAMPLES), int(np.ceil((1 - tail) * RESAMPLES)) - 1
    return float(means[low]), float(means[high])


def _resampled_means(values: np.ndarray, name: str) -> np.ndarray:
    # raw Philox words: numpy promises these for ever, unlike what it makes of them
    digest = blake3.blake3(f"exo2ego bootstrap 1|{SEED}|{name}".encode()).digest(16)
    philox, means = np.random.Philox(key=int.from_bytes(digest, "little")), []
    for _ in range(RESAMPLES // _CHUNK):
        words = philox.random_raw(_CHUNK * len(values)).reshape(_CHUNK, len(values))
        means.append(values[(words % np.uint64(len(values))).astype(np.int64)].mean(axis=1))
    return np.concatenate(means)
