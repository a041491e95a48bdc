"""Shards that are finished but in no version yet: what lets an interrupted encode go on."""

import uuid
from collections.abc import Collection
from dataclasses import dataclass, field

import orjson

from stores.atomic import write_whole
from stores.place import Place

_RUN = "run"


@dataclass(frozen=True)
class FinishedShard:
    """One finished shard of every array that was kept for its clips."""

    shard: int
    clip_ids: tuple[str, ...]
    clip_digests: tuple[str, ...]
    """What the index said of each clip (`stores.version.clip_digest`)."""
    digests: dict[str, list[str]]
    """By array: the digest of each clip's row."""
    factored: dict[str, list[str]] = field(default_factory=dict)
    """By array of which no rows were written: the digests that the rows would have."""

    def answers(
        self, clip_ids: tuple[str, ...], clip_digests: tuple[str, ...], arrays: set[str]
    ) -> bool:
        """True if exactly these clips and arrays are what the shard holds."""
        mine = (self.clip_ids, self.clip_digests, set(self.digests))
        return mine == (clip_ids, clip_digests, arrays)


@dataclass(frozen=True)
class Run:
    """One encode's claim on a store: its tasks stop as soon as it is no longer this run."""

    token: str
    first_shard: int
    """No run before has planned this shard number, or a later one."""


def begin_run(folder: Place, first_shard: int) -> Run:
    """A new run, whose shard numbers start at `first_shard` or later.

    Tasks of a run that was killed may still go on in other processes. They end when they next
    ask `is_current`, and what they write until then has numbers of their own.
    """
    before = _read_run(folder)
    run = Run(uuid.uuid4().hex, max(first_shard, before.first_shard if before else 0))
    _write_run(folder, run)
    return run


def claim_shards(folder: Place, run: Run, past_last: int) -> None:
    """Notes that the run may write all numbers below `past_last`, before it does."""
    _write_run(folder, Run(run.token, past_last))


def is_current(folder: Place, token: str) -> bool:
    """True while the run with this token has neither ended nor been replaced."""
    run = _read_run(folder)
    return run is not None and run.token == token


def end_run(folder: Place, run: Run) -> None:
    """Ends the run; numbers stay claimed, for tasks that have not noticed yet."""
    before = _read_run(folder)
    _write_run(folder, Run("", max(run.first_shard, before.first_shard if before else 0)))


def write_entry(folder: Place, finished: FinishedShard) -> None:
    """Records the shard, after all of its files took their names."""
    write_whole(folder / f"{finished.shard:06d}.json", orjson.dumps(finished))


def read_entries(folder: Place) -> list[FinishedShard]:
    """The finished shards, in the order of their numbers."""
    plain = [orjson.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]
    return [
        FinishedShard(
            shard=entry["shard"],
            clip_ids=tuple(entry["clip_ids"]),
            clip_digests=tuple(entry["clip_digests"]),
            digests=entry["digests"],
            factored=entry.get("factored", {}),
        )
        for entry in plain
    ]


def drop_entries(folder: Place, keep: Collection[int] = ()) -> None:
    """Forgets all shards but those in `keep`."""
    for path in folder.glob("*.json"):
        if int(path.stem) not in keep:
            path.unlink()


def _read_run(folder: Place) -> Run | None:
    path = folder / _RUN
    return Run(**orjson.loads(path.read_bytes())) if path.exists() else None


def _write_run(folder: Place, run: Run) -> None:
    write_whole(folder / _RUN, orjson.dumps(run))
