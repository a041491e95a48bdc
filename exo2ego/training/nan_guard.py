"""Steps whose loss or gradient is not a number: skipped, written down, and too many in a row end.

RUN/skipped.jsonl       one line a skipped step: step, what was not a number, of which clips
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from exo2ego.training.checkpoint import checkpoints
from exo2ego.training.step_lines import StepLine, append_line, read_lines, truncate_lines
from stores.damage import name_some
from stores.errors import UserFault

SKIPPED = "skipped.jsonl"


class TrainingFault(UserFault, ArithmeticError):
    """A run that cannot start as asked, or losses or gradients that are not numbers."""


class NanSettings(BaseModel):
    """What happens to a step whose loss or gradient is NaN or infinite: it is skipped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stop_after: int = Field(
        default=3,
        ge=1,
        description="skipped steps in a row that end a run. Choice: the paper is silent",
    )


@dataclass(frozen=True)
class SkippedStep(StepLine):
    """A step that changed neither weights nor the optimiser."""

    what: str
    """What was not a number: loss or gradient."""
    clip_ids: list[str]
    """Clips whose loss was not a number; all of the batch if it was the gradient."""


def note_skipped(run: Path, skipped: SkippedStep) -> int:
    """Writes it down; returns how many steps in a row were skipped by now."""
    append_line(run / SKIPPED, skipped)
    return _in_a_row(read_skipped(run))


def read_skipped(run: Path) -> list[SkippedStep]:
    """The skipped steps of a run, oldest first."""
    return read_lines(run / SKIPPED, SkippedStep)


def truncate_skipped(run: Path, step: int) -> None:
    """Drops steps that will be done again."""
    truncate_lines(run / SKIPPED, SkippedStep, step)


def _in_a_row(skipped: list[SkippedStep]) -> int:
    """How many steps without a gap end with the last one."""
    last = skipped[-1].step
    return sum(one.step == last - back for back, one in enumerate(reversed(skipped)))


def too_many(run: Path, skipped: SkippedStep, settings: NanSettings) -> TrainingFault:
    """What ends a run that skipped one step too many; it names clips and the file of all."""
    newest = checkpoints(run)
    return TrainingFault(
        f"The {skipped.what} of step {skipped.step} is not a number, nor were those before it.",
        where=f"{run}, clips {name_some(skipped.clip_ids)}",
        expected=f"a finite number once in {settings.stop_after} steps (nan.stop_after)",
        got="NaN or infinity",
        fix=f"{run / SKIPPED} lists steps and clips: look at them; lower optimiser.lr, or use "
        f"precision=fp32. The newest checkpoint is {newest[-1].name if newest else 'none'}.",
    )
