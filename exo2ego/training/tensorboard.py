"""TensorBoard's event files of a run, by the optional package tensorboardX.

RUN/tensorboard/        scalars: train/*, held_out/*, time/*
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from exo2ego.training.held_out import HeldOutLoss
from exo2ego.training.interrupt import StopRequest
from exo2ego.training.losses import StepMetrics
from exo2ego.training.watching import Watcher
from stores.atomic import disk_faults
from stores.errors import UserFault

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

TENSORBOARD = "tensorboard"
_FLUSH_S = 10.0  # after which a page that is looked at shows what is new


class PackageFault(UserFault, ImportError):
    """An optional package that is not installed."""


class TensorBoard(Watcher):
    """Writes what metrics.jsonl and held_out.jsonl hold, for TensorBoard to show.

    A skipped step has no loss and no norm there. Raises PackageFault without tensorboardX, and
    StoreFault if the disk refuses.
    """

    def __init__(self) -> None:
        self._open, self._flushed = _events_writer(), 0.0
        self._folder = Path()
        self._events: EventsWriter | None = None

    def begin(self, run: Path, first: int, last: int) -> None:
        self._folder = run / TENSORBOARD
        if first == last:
            return
        with disk_faults(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            # two runs may start within the second that is part of the name
            self._events = self._open(str(self._folder / "events"), f".{time.time_ns()}")
        # steps that an earlier call did after its last checkpoint are done again: they go
        self._write({"step": first + 1, "session_log": {"status": "START"}})

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

    def saved(self, checkpoint: Path, step: int, stop: StopRequest) -> None:
        self._flush()

    def end(self) -> None:
        if self._events:
            events, self._events = self._events, None
            with disk_faults(self._folder):
                events.close()

    def _add(self, step: int, scalars: dict[str, float | None]) -> None:
        """Adds those that are numbers."""
        there = {tag: value for tag, value in scalars.items() if value is not None}
        values = [{"tag": tag, "simple_value": value} for tag, value in there.items()]
        self._write({"step": step, "summary": {"value": values}})
        if time.monotonic() - self._flushed > _FLUSH_S:
            self._flush()

    def _write(self, event: dict[str, object]) -> None:
        from tensorboardX.proto import event_pb2

        if self._events:
            whole = cast(Any, event_pb2).Event(wall_time=time.time(), **event)
            with disk_faults(self._folder):
                self._events.write_event(whole)

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        if self._events:
            with disk_faults(self._folder):
                self._events.flush()


def _events_writer() -> Callable[[str, str], EventsWriter]:
    """What opens an event file. tensorboardX's SummaryWriter, which most use, writes in a thread
    whose faults nobody hears of: with a full disk it would wait for ever."""
    try:
        from tensorboardX.event_file_writer import EventsWriter
    except ImportError as missing:
        raise PackageFault(
            "TensorBoard's files are written by a package that is not installed.",
            where="--tensorboard",
            expected="tensorboardX",
            got=missing,
            fix="Install it with `pip install 'exo2ego[watch]'`, or leave out --tensorboard: "
            "metrics.jsonl and loss.png are written in any case.",
        ) from missing
    return EventsWriter
