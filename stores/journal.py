"""Shards that are finished but in no version yet: what lets an interrupted encode go on."""

import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from stores.atomic import write_whole
from stores.errors import StoreFault
from stores.place import Place
from stores.store_hash import canonical_digest

_RUN = "run"
_CHECK = "check"


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
    _write_note(folder / f"{finished.shard:06d}.json", asdict(finished))


def read_entries(folder: Place) -> list[FinishedShard]:
    """The finished shards, in the order of their numbers. Raises StoreFault if one is damaged."""
    return [_read_entry(path) for path in sorted(folder.glob("*.json"))]


def drop_entries(folder: Place, keep: Collection[int] = ()) -> None:
    """Forgets all shards but those in `keep`."""
    kept = {f"{shard:06d}" for shard in keep}
    for path in folder.glob("*.json"):
        if path.stem not in kept:
            path.unlink()


def _read_entry(path: Place) -> FinishedShard:
    plain = _read_note(path)
    try:
        entry = FinishedShard(
            shard=plain["shard"],
            clip_ids=tuple(plain["clip_ids"]),
            clip_digests=tuple(plain["clip_digests"]),
            digests=plain["digests"],
            factored=plain.get("factored", {}),
        )
    except (KeyError, TypeError) as foreign:
        raise _damaged(path, f"another thing: {foreign!r}") from foreign
    # under another number it would name the rows of other clips
    if path.stem != f"{entry.shard:06d}":
        raise _damaged(path, f"the note of shard {entry.shard}")
    return entry


def _read_run(folder: Place) -> Run | None:
    path = folder / _RUN
    if not path.exists():
        return None
    try:
        return Run(**_read_note(path))
    except TypeError as foreign:
        raise _damaged(path, f"another thing: {foreign}") from foreign


def _write_run(folder: Place, run: Run) -> None:
    _write_note(folder / _RUN, asdict(run))


def _write_note(path: Place, plain: dict[str, Any]) -> None:
    """Writes the note with a digest of itself: what it says goes into versions unseen."""
    write_whole(path, orjson.dumps({**plain, _CHECK: canonical_digest(plain)}))


def _read_note(path: Place) -> dict[str, Any]:
    try:
        plain = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as foreign:
        raise _damaged(path, str(foreign)) from foreign
    check = plain.pop(_CHECK, None) if isinstance(plain, dict) else None
    if check is None or check != canonical_digest(plain):
        raise _damaged(path, "other bytes than its digest was made of")
    return plain


def _damaged(path: Place, got: str) -> StoreFault:
    return StoreFault(
        "A note of an interrupted encode, or of derived rows, cannot be read.",
        where=path,
        expected="JSON, as a run of the same release writes it, with a digest of itself",
        got=got,
        fix="Remove the file; the next run of the same command makes again what it stood for.",
    )
