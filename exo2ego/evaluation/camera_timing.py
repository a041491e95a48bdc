"""Camera timing: by how many frames a generated video's motion comes after the true one's.

The paper's own open problem (section 12): a turn may come a few frames early or late. Choice: both
videos' dense optical flow from frame to frame, averaged over the cells of a grid; the lag is where
these two sequences, each less its mean over the frames that overlap, correlate best. Blurred videos
agree too little for a lag of one clip; their lateness still tells one, on the mean of many clips.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from exo2ego.evaluation.optical_flow import optical_flow
from exo2ego.evaluation.sharpness import luma

GRID = (4, 4)
"""Rows and columns of cells: turns, rolls and steps forward look different on them."""
LEAST_OVERLAP = 0.6
"""Share of the steps between frames that must overlap: of 8 steps 5, so lags up to 3."""
LEAST_MOTION_PX = 0.25
"""Of how far the true motion strays from its mean (root mean square): a camera that stands or pans
evenly has no moment by which one could time it."""
LEAST_AGREEMENT = 0.7
"""Correlation below which the two videos do not move alike at any lag. Choice: different simulated
takes reached it by chance in 4 of 60 pairs, noisy copies of one always (docs/evaluation.md)."""


@dataclass(frozen=True)
class Timing:
    """How a generated video's motion stands to the true one's; None is not measured."""

    lag_frames: int | None
    """Frames by which it is late; negative is early. None if the videos do not move alike."""
    agreement: float | None
    """Correlation at the best lag, at most 1. None if the truth has no motion to time."""
    on_time: float | None = None
    """Correlation without any lag. None as agreement is."""
    lateness: float | None = None
    """Correlation a frame late less that a frame early: above 0 if late. On the mean of many clips
    it is 0 for motion that is on time, or as often late as early. None as agreement is, and for
    videos too short for a lag."""


def camera_timing(generated: UInt8[Tensor, "T H W 3"], truth: UInt8[Tensor, "T H W 3"]) -> Timing:
    """Lag and agreement of the motion of two videos of as many frames."""
    made, true = motion(generated), motion(truth)
    steps = len(true)
    most = int(steps * (1 - LEAST_OVERLAP) + 1e-9)
    if steps < 2 or _strays(true) < LEAST_MOTION_PX:
        return Timing(None, None)
    found = {lag: _correlation(*_overlap(made, true, lag)) for lag in _by_size(most)}
    best = max(found, key=lambda lag: found[lag])  # of equals the smallest lag
    lag = best if found[best] >= LEAST_AGREEMENT else None
    return Timing(lag, found[best], found[0], found[1] - found[-1] if most else None)


def motion(video: UInt8[Tensor, "T H W 3"]) -> Float[Tensor, "T-1 cells"]:
    """Mean flow of each cell of the grid from each frame to the next, x and y, in pixels."""
    grey = luma(video).float()
    flow = optical_flow(grey[:-1], grey[1:])
    cells = functional.adaptive_avg_pool2d(flow, GRID)
    return rearrange(cells, "n xy row column -> n (xy row column)")


def _overlap(made: Tensor, true: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """The steps of both that are the same if `made` is late by `lag`."""
    count = len(true) - abs(lag)
    return made[max(lag, 0) :][:count], true[max(-lag, 0) :][:count]


def _correlation(a: Float[Tensor, "n cells"], b: Float[Tensor, "n cells"]) -> float:
    """Of what changes over the steps; 0 if one does not change."""
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    scale = torch.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0


def _strays(motion: Float[Tensor, "n cells"]) -> float:
    """Root mean square of a cell's motion (x and y together) about its mean, in pixels."""
    squared = (motion - motion.mean(dim=0)) ** 2
    return float(torch.sqrt(2 * reduce(squared, "n cells -> ", "mean")))


def _by_size(most: int) -> list[int]:
    """0, then 1 and -1, and so on: lags by their size."""
    return sorted(range(-most, most + 1), key=abs)
