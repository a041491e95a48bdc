"""What an audit found, as data and as text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo2ego.training.history import Start

SHORT = 12
"""Digits of a digest that text shows."""


@dataclass(frozen=True)
class CheckpointAudit:
    """What one checkpoint says of itself."""

    folder: Path
    step: int
    store_hash: str
    experiment_digest: str
    order_digest: str
    """Of the ids of all clips that were trained on, in their order."""
    weights_digest: str
    software: dict[str, str]


@dataclass(frozen=True)
class RunAudit:
    """One run of a chain."""

    run: Path
    stage: str
    steps: int
    """Done, by the newest checkpoint."""
    steps_wanted: int
    experiment: str
    """Name of the shipped experiment that it differs from in the fewest keys."""
    differences: dict[str, tuple[Any, Any]]
    """By dotted key: the shipped value, and the run's."""
    wan: str | None
    """What was given as --wan, and its fingerprint."""
    first_frames: str | None
    """Digest of the first frames that it was conditioned on."""
    began_with: str | None
    """Digest of the trained weights that it began with; None: fresh ones."""
    checkpoints: list[CheckpointAudit]
    """Oldest first; of a parent, the one that was gone on from."""
    metrics: tuple[int, int] | None
    """First and last step that metrics.jsonl has; None without a line."""
    starts: list[Start]
    """Empty for runs that are older than history.jsonl."""


@dataclass(frozen=True)
class Audit:
    """A run and what it goes on from."""

    runs: list[RunAudit]
    """In the order in which they were trained; the audited one is the last."""
    notes: list[str]
    """What was done out of the ordinary, by permission."""
    problems: list[str]
    """What does not agree."""

    def __str__(self) -> str:
        lines = [line for run in self.runs for line in _run_lines(run)]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"PROBLEM: {problem}" for problem in self.problems]
        return "\n".join([*lines, "" if self.problems else "Everything agrees."]).rstrip()


def _run_lines(run: RunAudit) -> Iterator[str]:
    """A run in text."""
    yield f"{run.stage}: {run.run}"
    newest = run.checkpoints[-1]
    differ = ", ".join(f"{key}={ours} (not {theirs})" for key, (theirs, ours) in _pairs(run))
    facts = {
        "steps": f"{run.steps:,} of {run.steps_wanted:,}",
        "store": newest.store_hash[:SHORT],
        "order": newest.order_digest[:SHORT],
        "experiment": f"{newest.experiment_digest[:SHORT]}: {run.experiment}"
        + (f" but {differ}" if differ else ""),
        "wan": run.wan,
        "first frames": run.first_frames and run.first_frames[:SHORT],
        "began with": run.began_with and f"weights {run.began_with[:SHORT]}",
        "started": "; ".join(_start_text(start) for start in run.starts) or "not noted",
        "software": _software(newest.software),
        "metrics": f"steps {run.metrics[0]} to {run.metrics[1]}" if run.metrics else "none",
    }
    yield from (f"  {name:<13}{value}" for name, value in facts.items() if value)
    for one in run.checkpoints:
        yield f"  {'checkpoint':<13}{one.folder.name}, weights {one.weights_digest[:SHORT]}"


def _pairs(run: RunAudit) -> list[tuple[str, tuple[Any, Any]]]:
    return list(run.differences.items())


def _start_text(start: Start) -> str:
    what = f"resumed at step {start.step}" if start.step else "from the beginning"
    count = f"{start.processes} x " if start.processes > 1 else ""
    return f"{start.at} {what} on {count}{start.device}"


def _software(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
