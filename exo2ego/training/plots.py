"""The picture of a run: its losses, gradient norms and learning rate over the steps.

RUN/loss.png            drawn at each checkpoint
"""

import io
from pathlib import Path

import numpy as np

from exo2ego.training.chart import (
    BLUE,
    GREEN,
    ORANGE,
    PALE_BLUE,
    PINK,
    SKY,
    YELLOW,
    Line,
    Numbers,
    Panel,
    draw_panels,
)
from exo2ego.training.held_out import HeldOutLoss, read_held_out
from exo2ego.training.interrupt import StopRequest
from exo2ego.training.losses import StepMetrics, read_metrics
from exo2ego.training.watching import Watcher
from stores.atomic import disk_faults, write_whole

LOSS_PICTURE = "loss.png"
_SMOOTH = 50
"""Means are over one in so many of all steps, and over 5 steps at least. Choice."""
_LEVELS = (BLUE, SKY, GREEN, YELLOW, PINK, ORANGE)


class LossPicture(Watcher):
    """Draws RUN/loss.png whenever a checkpoint is on disk."""

    def __init__(self, title: str):
        self._title, self._run = title, Path()

    def begin(self, run: Path, first: int, last: int) -> None:
        self._run = run

    def saved(self, checkpoint: Path, step: int, stop: StopRequest) -> None:
        draw_run(self._run, self._title)


def draw_run(run: Path, title: str) -> Path:
    """Writes the picture of a run, as far as it has come; returns its path."""
    lines, measured, file = read_metrics(run), read_held_out(run), io.BytesIO()
    panels = [_losses(lines, measured), *_by_level(measured), _norms(lines), _rates(lines)]
    draw_panels(f"{title}: {run.name}, step {lines[-1].step:,}", panels, "step").save(file, "PNG")
    path = run / LOSS_PICTURE
    with disk_faults(path):
        write_whole(path, file.getvalue())
    return path


def smoothed(values: Numbers, window: int) -> Numbers:
    """Means over so many values around each one, fewer at both ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first = np.maximum(places - (window - 1) // 2, 0)
    last = np.minimum(places + window // 2 + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _series(pairs: list[tuple[int, float | None]]) -> tuple[Numbers, Numbers]:
    """Steps and values of those that have one."""
    there = [(step, value) for step, value in pairs if value is not None]
    steps, values = np.array(there, dtype=float).reshape(-1, 2).T
    return steps, values


def _each_and_mean(pairs: list[tuple[int, float | None]]) -> list[Line]:
    """The numbers of all steps, pale, and their means above."""
    steps, values = _series(pairs)
    window = min(max(5, len(values) // _SMOOTH), max(1, len(values) // 5))
    return [
        Line("each step", steps, values, PALE_BLUE, width=1.0),
        Line(f"mean of {window}", steps, smoothed(values, window), BLUE, width=2.0),
    ]


def _losses(lines: list[StepMetrics], measured: list[HeldOutLoss]) -> Panel:
    shown = _each_and_mean([(line.step, line.loss) for line in lines])
    if measured:
        held_out = _series([(line.step, line.loss) for line in measured])
        shown.append(Line("held-out", *held_out, GREEN, width=2.0, dots=True))
    skipped = [line.step for line in lines if line.is_skipped]
    return Panel("Loss", shown, 380, marks=skipped, marks_name="skipped")


def _by_level(measured: list[HeldOutLoss]) -> list[Panel]:
    """The held-out loss of each noise level, for stages that have such."""
    levels = list(measured[0].by_sigma) if measured else []
    lines = [
        Line(
            f"sigma {level}",
            *_series([(line.step, line.by_sigma[level]) for line in measured]),
            _LEVELS[number % len(_LEVELS)],
            dots=True,
        )
        for number, level in enumerate(levels)
    ]
    return [Panel("Held-out loss by noise level", lines, 240)] if lines else []


def _norms(lines: list[StepMetrics]) -> Panel:
    shown = _each_and_mean([(line.step, line.grad_norm) for line in lines])
    return Panel("Gradient norm before clipping", shown, 180)


def _rates(lines: list[StepMetrics]) -> Panel:
    steps, rates = _series([(line.step, line.lr) for line in lines])
    return Panel("Learning rate", [Line("", steps, rates, BLUE, width=2.0)], 140, is_linear=True)
