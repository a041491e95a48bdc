"""Reading a whole store again, and comparing every row with the digest in the manifest."""

from collections.abc import Iterator
from dataclasses import dataclass

from stores.arrays import RowDamage, row_digest
from stores.progress import Track, silent
from stores.reading import Store
from stores.schema import ARRAYS
from stores.version import ABSENT_ROW, StoredClip


@dataclass(frozen=True)
class DamagedRow:
    """One row of one array that is not what the manifest says, and why."""

    clip_id: str
    array: str
    shard: int
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """What a reading of the whole store found."""

    clips: int
    rows: int
    bytes: int
    damaged: tuple[DamagedRow, ...]

    @property
    def damaged_clips(self) -> list[str]:
        """Ids of the clips with any damage, sorted."""
        return sorted({row.clip_id for row in self.damaged})


def verify_store(store: Store, track: Track = silent) -> VerifyReport:
    """Reads every row of the store's version and hashes it; damage is reported, not raised."""
    # by place, so that shards are read from front to back
    clips = sorted(store.rows, key=lambda clip: max(clip.rows.values()))
    damaged: list[DamagedRow] = []
    rows = read_bytes = 0
    for clip in track(clips, total=len(clips), what="verify", unit="clips"):
        for name, size, damage in _verify_clip(store, clip):
            rows, read_bytes = rows + 1, read_bytes + size
            if damage:
                shard = clip.rows[name] // store.clips_per_shard
                damaged.append(DamagedRow(clip.clip_id, name, shard, damage))
    return VerifyReport(len(clips), rows, read_bytes, tuple(damaged))


def _verify_clip(store: Store, clip: StoredClip) -> Iterator[tuple[str, int, str]]:
    """For each array kept: its name, bytes, and what is wrong with the row, if anything."""
    for name in ARRAYS:
        if clip.rows[name] == ABSENT_ROW:
            continue
        reader = store.reader(name)
        try:
            row = reader.read([clip.rows[name]])[0]
        except RowDamage as damage:
            yield name, 0, damage.reason
            continue
        same = row_digest(reader.layout, row) == clip.digests[name]
        yield name, row.nbytes, "" if same else "the numbers are not those of the manifest"
