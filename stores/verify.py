"""Reading a whole store again, and comparing every row with the digest in the manifest."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain

from stores.arrays import RowDamage, row_digest
from stores.progress import Track, silent
from stores.reading import Store
from stores.schema import ARRAYS
from stores.version import ABSENT_ROW, StoredClip, clip_digest

THREADS = min(4, os.cpu_count() or 1)
"""Choice: hashing a row takes as long as reading it, and both leave the interpreter alone."""
_CLIPS_A_JOB = 64


@dataclass(frozen=True)
class DamagedRow:
    """One row of one array that is not what the manifest says, and why."""

    clip_id: str
    array: str
    """Or `clip`: what the manifest says of it."""
    shard: int
    """-1 if the row lies in none."""
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """What a reading of the whole store found."""

    clips: int
    rows: int
    bytes: int
    rows_not_made: int
    """Rays that a factored store does not keep, and that nobody could make: not looked at."""
    damaged: tuple[DamagedRow, ...]

    @property
    def damaged_clips(self) -> list[str]:
        """Ids of the clips with any damage, sorted."""
        return sorted({row.clip_id for row in self.damaged})


@dataclass(frozen=True)
class _Checked:
    """What was found of one clip."""

    rows: int = 0
    bytes: int = 0
    rows_not_made: int = 0
    damaged: tuple[DamagedRow, ...] = ()


def verify_store(store: Store, track: Track = silent, *, threads: int = THREADS) -> VerifyReport:
    """Reads every row of the store's version and hashes it; damage is reported, not raised.

    Rows that are made when they are read are made, if `store` was opened with what makes them.
    """
    said = store.version.table["digest_clip"].to_pylist()
    # by place, so that shards are read from front to back
    clips = sorted(zip(store.rows, said, strict=True), key=lambda pair: max(pair[0].rows.values()))
    parts = [clips[first : first + _CLIPS_A_JOB] for first in range(0, len(clips), _CLIPS_A_JOB)]
    with ThreadPoolExecutor(threads, "verify") as pool:
        results = chain.from_iterable(pool.map(partial(_verify_clips, store), parts))
        found = list(track(results, total=len(clips), what="verify", unit="clips"))
    return VerifyReport(
        clips=len(clips),
        rows=sum(checked.rows for checked in found),
        bytes=sum(checked.bytes for checked in found),
        rows_not_made=sum(checked.rows_not_made for checked in found),
        damaged=tuple(chain.from_iterable(checked.damaged for checked in found)),
    )


def _verify_clips(store: Store, clips: list[tuple[StoredClip, str]]) -> list[_Checked]:
    return [_verify_clip(store, clip, digest) for clip, digest in clips]


def _verify_clip(store: Store, clip: StoredClip, digest: str) -> _Checked:
    rows = read_bytes = not_made = 0
    damaged: list[DamagedRow] = []
    if clip_digest(clip) != digest:
        reason = "cameras, frames or labels are not those of the clip's digest"
        damaged.append(DamagedRow(clip.clip_id, "clip", ABSENT_ROW, reason))
    for name in (name for name in ARRAYS if clip.digests[name]):
        is_stored = clip.rows[name] != ABSENT_ROW
        if not is_stored and name not in store.derive:
            not_made += 1
            continue
        rows += 1
        reader = store.reader(name)
        shard = clip.rows[name] // store.clips_per_shard if is_stored else ABSENT_ROW
        try:
            row = reader.read([clip.rows[name]])[0] if is_stored else store.make(name, clip)
        except RowDamage as damage:
            damaged.append(DamagedRow(clip.clip_id, name, shard, damage.reason))
            continue
        read_bytes += row.nbytes
        if row_digest(reader.layout, row) != clip.digests[name]:
            reason = "the numbers are not those of the manifest"
            damaged.append(DamagedRow(clip.clip_id, name, shard, reason))
    return _Checked(rows, read_bytes, not_made, tuple(damaged))
