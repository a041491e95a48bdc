"""The live line of a run: on a terminal drawn anew, elsewhere a plain line now and then."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
)
from rich.text import Text

from exo2ego.training.held_out import HeldOutLoss, read_held_out
from exo2ego.training.losses import StepMetrics, read_metrics
from exo2ego.training.watching import Watcher

WINDOW = 50
"""Steps that means and rates are taken over. Choice."""


class LiveLine(Watcher):
    """Shows loss, rates, memory and time left on stderr; `every_s` seconds apart if plain."""

    def __init__(
        self,
        what: str,
        *,
        every_s: float = 30.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._what, self._every_s, self._clock = what, every_s, clock
        self._console = console or Console(stderr=True)
        self._recent: deque[StepMetrics] = deque(maxlen=WINDOW)
        self._held_out: HeldOutLoss | None = None
        self._skipped, self._first, self._last = 0, 0, 0
        self._began = self._told = 0.0
        self._screen: _Screen | None = None

    def begin(self, run: Path, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._began = self._told = self._clock()
        before, measured = read_metrics(run), read_held_out(run)
        self._skipped = sum(line.is_skipped for line in before)
        self._held_out = measured[-1] if measured else None
        if self._console.is_terminal and first < last:
            self._screen = _Screen(self._console, self._what, first, last)

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def step(self, metrics: StepMetrics) -> None:
        self._recent.append(metrics)
        self._skipped += metrics.is_skipped
        now, left_s = self._clock(), self._left_s(metrics.step)
        if self._screen:
            self._screen.show(metrics.step, left_s, self._words())
        elif now - self._told >= self._every_s or metrics.step == self._last:
            self._told = now
            place = f"{self._what} {metrics.step:,}/{self._last:,}"
            self.note(" | ".join([place, f"left {duration(left_s)}", *self._words()]))

    def held_out(self, line: HeldOutLoss) -> None:
        self._held_out = line

    def end(self) -> None:
        if self._screen:
            self._screen.close()
            self._screen = None

    def _left_s(self, step: int) -> float:
        """Seconds left at the pace of this call, checkpoints and measurements included."""
        each = (self._clock() - self._began) / (step - self._first)
        return each * (self._last - step)

    def _words(self) -> list[str]:
        words = step_words(list(self._recent))
        if torch.cuda.is_initialized():
            words.append(f"GPU {torch.cuda.max_memory_allocated() / 1e9:.1f} GB at most")
        if self._held_out:
            words.append(f"held-out {number(self._held_out.loss)} at {self._held_out.step:,}")
        if self._skipped:
            words.append(f"{self._skipped} skipped")
        return words


def step_words(recent: list[StepMetrics]) -> list[str]:
    """What to say of these steps: of the last one, and means and rates of all."""
    last = recent[-1]
    losses = [line.loss for line in recent if line.loss is not None]
    mean = sum(losses) / len(losses) if losses else None
    step_s = sum(line.step_s or 0.0 for line in recent)
    wait_s = sum(line.data_wait_s or 0.0 for line in recent)
    clips = sum(line.clips_per_s * (line.step_s or 0.0) for line in recent)
    return [
        f"loss {number(last.loss)} (mean of {len(recent)}: {number(mean)})",
        f"lr {last.lr:.2e}",
        f"grad norm {number(last.grad_norm)}",
        f"{clips / (step_s + wait_s):.3g} clips/s",
        f"waits for data {wait_s / (step_s + wait_s):.1%}",
    ]


def number(value: float | None) -> str:
    """Four digits, or that there is none: the step was skipped."""
    return "none" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds; days before them if there are any."""
    days, rest = divmod(round(seconds), 24 * 3600)
    clock = f"{rest // 3600}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days} d {clock}" if days else clock


class _Screen:
    """A bar, and a line of words below it."""

    def __init__(self, console: Console, what: str, first: int, last: int):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(*columns, TextColumn("left {task.fields[left]}"), console=console)
        self._task: TaskID = self._bar.add_task(what, total=last, completed=first, left="?")
        self._live = Live(self._bar, console=console, refresh_per_second=4)
        self._live.start()

    def show(self, step: int, left_s: float, words: list[str]) -> None:
        self._bar.update(self._task, completed=step, left=duration(left_s))
        self._live.update(Group(self._bar, Text("  ".join(words))))

    def close(self) -> None:
        self._live.stop()
