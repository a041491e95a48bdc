"""A run's metrics.jsonl: one line a step, appended; cut back to a checkpoint's step on resume."""

from dataclasses import dataclass
from pathlib import Path

import orjson

from stores.atomic import write_whole

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class StepMetrics:
    """What is noted of one optimiser step."""

    step: int
    """Steps done, this one counted."""
    loss: float
    """Mean over the global batch."""
    lr: float
    grad_norm: float
    """Before clipping."""
    clips_per_s: float


def read_metrics(run: Path) -> list[StepMetrics]:
    """The lines of a run, oldest first; a last line that was cut off is left out."""
    path = run / METRICS
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [StepMetrics(**orjson.loads(line)) for line in whole]


def append_metrics(run: Path, metrics: StepMetrics) -> None:
    """Adds the line of one step."""
    with (run / METRICS).open("ab") as file:
        file.write(_line(metrics))


def truncate_metrics(run: Path, step: int) -> None:
    """Drops the lines of steps that will be done again."""
    kept = [metrics for metrics in read_metrics(run) if metrics.step <= step]
    write_whole(run / METRICS, b"".join(map(_line, kept)))


def _line(metrics: StepMetrics) -> bytes:
    return orjson.dumps(metrics, option=orjson.OPT_APPEND_NEWLINE)
