"""A run's history.jsonl: a line each time that training starts or goes on in its folder."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from exo2ego.training.checkpoint import CheckpointState, software_versions
from stores.atomic import write_whole

HISTORY = "history.jsonl"


@dataclass(frozen=True)
class Start:
    """One start of training in a run's folder."""

    at: str
    """UTC, to the second."""
    step: int
    """Steps that were done before; 0 is a beginning, more is a resumption."""
    store_hash: str
    experiment_digest: str
    device: str
    software: dict[str, str]
    processes: int = 1


def note_start(run: Path, state: CheckpointState, device: str, processes: int) -> None:
    """Adds a line: training starts, or goes on, from this state."""
    start = Start(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        step=state.step,
        store_hash=state.store_hash,
        experiment_digest=state.experiment_digest,
        device=device,
        software=software_versions(),
        processes=processes,
    )
    lines = [*read_starts(run), start]
    text = b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
    write_whole(run / HISTORY, text)


def read_starts(run: Path) -> list[Start]:
    """The starts of a run, oldest first; none for a run that is older than this file."""
    path = run / HISTORY
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [Start(**orjson.loads(line)) for line in text.splitlines()]
