"""A run's metrics.jsonl: one line a step, appended; cut back to a checkpoint's step on resume."""

from dataclasses import dataclass
from pathlib import Path

from exo2ego.training.step_lines import StepLine, append_line, read_lines, truncate_lines

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class StepMetrics(StepLine):
    """What is noted of one optimiser step."""

    loss: float | None
    """Mean over the global batch; None (null in the file) for a step that was skipped."""
    lr: float
    grad_norm: float | None
    """Before clipping; None for a step that was skipped."""
    clips_per_s: float
    data_wait_s: float | None = None
    """Seconds that the step waited for its batch; None in runs older than this field."""
    step_s: float | None = None
    """Seconds that it took from there on; None in runs older than this field."""

    @property
    def is_skipped(self) -> bool:
        """Whether its loss or gradient was not a number, so that nothing was learned of it."""
        return self.loss is None


def read_metrics(run: Path) -> list[StepMetrics]:
    """The lines of a run, oldest first; a last line that was cut off is left out."""
    return read_lines(run / METRICS, StepMetrics)


def append_metrics(run: Path, metrics: StepMetrics) -> None:
    """Adds the line of one step."""
    append_line(run / METRICS, metrics)


def truncate_metrics(run: Path, step: int) -> None:
    """Drops the lines of steps that will be done again; makes the file if there is none."""
    run.mkdir(parents=True, exist_ok=True)
    (run / METRICS).touch()
    truncate_lines(run / METRICS, StepMetrics, step)
