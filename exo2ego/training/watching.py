"""What watches a run: told of every step, measurement and checkpoint, and changes none of them."""

from contextlib import ExitStack
from pathlib import Path

from exo2ego.training.held_out import HeldOutLoss
from exo2ego.training.interrupt import StopRequest
from exo2ego.training.losses import StepMetrics


class Watcher:
    """Does nothing; one that watches overrides what it wants to know."""

    def begin(self, run: Path, first: int, last: int) -> None:
        """The run in this folder goes on from step `first` up to step `last`."""

    def note(self, text: str) -> None:
        """Something that a person should know."""

    def step(self, metrics: StepMetrics) -> None:
        """A step is done, or was skipped."""

    def held_out(self, line: HeldOutLoss) -> None:
        """The held-out loss was measured."""

    def saved(self, checkpoint: Path, step: int, stop: StopRequest) -> None:
        """A checkpoint is on disk, whole. The run ends with it if `stop` was asked for by then."""

    def end(self) -> None:
        """No more steps are done, whatever the reason."""


class Watchers(Watcher):
    """Tells several, in their order; all that have begun are ended, even if one cannot be."""

    def __init__(self, *watchers: Watcher):
        self._all = watchers
        self.notes: list[str] = []
        """What `note` was given."""

    def begin(self, run: Path, first: int, last: int) -> None:
        with ExitStack() as begun:
            for watcher in self._all:
                watcher.begin(run, first, last)
                begun.callback(watcher.end)
            begun.pop_all()

    def note(self, text: str) -> None:
        self.notes.append(text)
        for watcher in self._all:
            watcher.note(text)

    def step(self, metrics: StepMetrics) -> None:
        for watcher in self._all:
            watcher.step(metrics)

    def held_out(self, line: HeldOutLoss) -> None:
        for watcher in self._all:
            watcher.held_out(line)

    def saved(self, checkpoint: Path, step: int, stop: StopRequest) -> None:
        for watcher in self._all:
            watcher.saved(checkpoint, step, stop)

    def end(self) -> None:
        with ExitStack() as begun:
            for watcher in self._all:
                begun.callback(watcher.end)
