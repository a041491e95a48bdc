"""One command of a plan: its words, how much of it is there, and doing all that is not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["align", "first frames", "train", "poseinj", "baseline", "sample", "evaluate"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order in which steps are done."""
STOPPED = 130
"""Exit code of a command that a signal has ended, as the shell's own."""


@dataclass(frozen=True, eq=False)
class Step:
    """A command that makes one thing of a table."""

    kind: Kind
    name: str
    """Of what it makes: a run or a folder of samples."""
    words: Callable[[], list[str]]
    """The command, without `exo2ego`; what the steps before it have made may stand in it."""
    total: int
    unit: str
    done: Callable[[], int]
    """How many of the total are there now."""
    hours: Callable[[], float] | None = None
    """Counts GPU hours of all of it, at the least; None: it cannot be told beforehand."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self.done() >= self.total

    @property
    def hours_left(self) -> float | None:
        """Of what is not there yet; counting takes seconds."""
        left = 1 - min(1.0, self.done() / self.total)
        return None if self.hours is None else left and self.hours() * left


def run_steps(steps: Sequence[Step], execute: Callable[[Step], int]) -> int:
    """Does what is left, in order; the exit code of the first that fails or is stopped, else 0.

    `execute` runs a step's command and returns its exit code. A step that is done is left out.
    """
    for step in steps:
        if step.is_done:
            continue
        code = execute(step)
        if code or not step.is_done:
            return code or STOPPED
    return 0
