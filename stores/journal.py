"""Shards that are finished but in no version yet: what lets an interrupted encode go on."""

from collections.abc import Collection
from dataclasses import dataclass

import orjson

from stores.atomic import write_whole
from stores.place import Place


@dataclass(frozen=True)
class FinishedShard:
    """One finished shard of every array that was kept for its clips."""

    shard: int
    clip_ids: tuple[str, ...]
    clip_digests: tuple[str, ...]
    """What the index said of each clip (`stores.version.clip_digest`)."""
    digests: dict[str, list[str]]
    """By array: the digest of each clip's row."""

    def answers(
        self, clip_ids: tuple[str, ...], clip_digests: tuple[str, ...], arrays: set[str]
    ) -> bool:
        """True if exactly these clips and arrays are what the shard holds."""
        mine = (self.clip_ids, self.clip_digests, set(self.digests))
        return mine == (clip_ids, clip_digests, arrays)


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
        )
        for entry in plain
    ]


def drop_entries(folder: Place, keep: Collection[int] = ()) -> None:
    """Forgets all shards but those in `keep`."""
    for path in folder.glob("*.json"):
        if int(path.stem) not in keep:
            path.unlink()
