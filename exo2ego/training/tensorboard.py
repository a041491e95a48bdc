"""TensorBoard's event files of a run, by the optional package tensorboardX.

RUN/tensorboard/        scalars: train/*, held_out/*, time/*
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from exo2ego.training.held_out import HeldOutLoss
from exo2ego.training.losses import StepMetrics
from exo2ego.training.watching import Watcher
from stores.errors import UserFault

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

TENSORBOARD = "tensorboard"


class PackageFault(UserFault, ImportError):
    """An optional package that is not installed."""


class TensorBoard(Watcher):
    """Writes what metrics.jsonl and held_out.jsonl hold, for TensorBoard to show.

    A skipped step has no loss and no norm there. Raises PackageFault without tensorboardX.
    """

    def __init__(self) -> None:
        self._open = _summary_writer()
        self._writer: SummaryWriter | None = None

    def begin(self, run: Path, first: int, last: int) -> None:
        if first < last:
            # steps that an earlier call did after its last checkpoint are done again: they go
            folder, own = str(run / TENSORBOARD), f".{time.time_ns()}"
            self._writer = self._open(folder, purge_step=first + 1, filename_suffix=own)

    def step(self, metrics: StepMetrics) -> None:
        self._add(
            metrics.step,
            {
                "train/loss": metrics.loss,
                "train/grad_norm": metrics.grad_norm,
                "train/lr": metrics.lr,
                "time/clips_per_s": metrics.clips_per_s,
                "time/data_wait_s": metrics.data_wait_s,
                "time/step_s": metrics.step_s,
            },
        )

    def held_out(self, line: HeldOutLoss) -> None:
        by_sigma = {f"held_out/sigma_{sigma}": loss for sigma, loss in line.by_sigma.items()}
        self._add(line.step, {"held_out/loss": line.loss} | by_sigma)

    def saved(self, checkpoint: Path, step: int, *, stopping: bool) -> None:
        if self._writer:
            self._writer.flush()

    def end(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None

    def _add(self, step: int, scalars: dict[str, float | None]) -> None:
        for name, value in scalars.items():
            if self._writer and value is not None:
                self._writer.add_scalar(name, value, step)


def _summary_writer() -> type[SummaryWriter]:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as missing:
        raise PackageFault(
            "TensorBoard's files are written by a package that is not installed.",
            where="--tensorboard",
            expected="tensorboardX",
            got=missing,
            fix="Install it with `pip install 'exo2ego[watch]'`, or leave out --tensorboard: "
            "metrics.jsonl and loss.png are written in any case.",
        ) from missing
    return SummaryWriter
