"""A folder of tar shards: which clip lies in which tar, and where each of its arrays begins.

The offsets are found by reading the tars' headers, and kept in index.parquet beside them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int64

from stores.arrays import shard_layout
from stores.atomic import whole_file
from stores.errors import StoreFault
from stores.place import Place
from stores.schema import ARRAYS
from stores.shard import ShardDamage, ShardLayout
from stores.store_hash import canonical_digest
from stores.tar_shard import ABOUT, Member, list_members, member_name, npy_header
from stores.version import ABSENT_ROW, StoreRecipe

INDEX_NAME = "index.parquet"
NOWHERE = -1
"""Offset of an array that a clip does not have, or that its tar has lost."""
_FORMAT = 1
_ABOUT_INDEX = b"exo2ego"

Offsets = dict[str, Int64[np.ndarray, " clips"]]
"""By array: where each clip's .npy begins in its tar."""


@dataclass(frozen=True, eq=False)
class TarFolder:
    """What ought to lie in a folder of tar shards."""

    path: Place
    hash: str
    clip_ids: Sequence[str]
    """Sorted; the first `clips_per_tar` lie in the first tar, and so on."""
    kept: Mapping[str, Bool[np.ndarray, " clips"]]
    """By array: for which clips it is kept."""
    layouts: Mapping[str, ShardLayout]
    clips_per_tar: int

    @property
    def shards(self) -> int:
        """How many tars there are."""
        return -(-len(self.clip_ids) // self.clips_per_tar)

    def file_of(self, shard: int) -> Place:
        """The tar of that number."""
        return self.path / f"shard-{shard:06d}.tar"

    def numbers(self, shard: int) -> range:
        """The clips of one tar, as numbers into `clip_ids`."""
        first = shard * self.clips_per_tar
        return range(first, min(first + self.clips_per_tar, len(self.clip_ids)))

    def members(self, shard: int) -> Iterator[tuple[str, int, Member]]:
        """Array (or `ABOUT`), clip number and place of all that lies in one tar.

        Raises ShardDamage if something is missing, or lies there that does not belong there.
        """
        places = {
            member_name(self.clip_ids[number], array): (array, number)
            for number in self.numbers(shard)
            for array in (ABOUT, *(name for name, kept in self.kept.items() if kept[number]))
        }
        sizes = {array: len(npy_header(at)) + at.row_bytes for array, at in self.layouts.items()}
        expected = {name: sizes.get(array) for name, (array, _) in places.items()}
        for member in list_members(self.file_of(shard), expected):
            yield *places[member.name], member


def tar_folder(
    path: Place, name: str, recipe: StoreRecipe, clips_per_tar: int, manifest: pa.Table
) -> TarFolder:
    """The folder of one version. Raises StoreFault if its clips do not follow each other."""
    clip_ids, kept = manifest["clip_id"].to_pylist(), {}
    for array in ARRAYS:
        column = f"row_{array}"
        if column not in manifest.column_names:
            continue
        rows = np.array(manifest[column].to_pylist(), np.int64)
        kept[array] = rows != ABSENT_ROW
        if clip_ids != sorted(clip_ids) or (rows != np.arange(len(rows)))[kept[array]].any():
            raise _not_in_order(path, array)
    layouts = {a: shard_layout(ARRAYS[a], recipe.clips.shape, clips_per_tar) for a in kept}
    return TarFolder(path, name, clip_ids, kept, layouts, clips_per_tar)


def no_offsets(folder: TarFolder) -> Offsets:
    """Nothing found yet, for all arrays and clips."""
    return {name: np.full(len(folder.clip_ids), NOWHERE, np.int64) for name in folder.kept}


def load_offsets(folder: TarFolder) -> Offsets:
    """Where everything begins: from the index, or from the tars' headers, which makes the index.

    What a damaged tar has lost is `NOWHERE`; reading it says so, and the index is not kept then.
    """
    known = _read_index(folder)
    if known is not None:
        return known
    offsets, whole = no_offsets(folder), True
    for shard in range(folder.shards):
        try:
            for array, number, member in folder.members(shard):
                if array != ABOUT:
                    offsets[array][number] = member.offset
        except ShardDamage:
            whole = False
    if whole:
        with suppress(OSError):  # a folder that cannot be written is read without an index
            write_index(folder, offsets)
    return offsets


def write_index(folder: TarFolder, offsets: Offsets) -> None:
    """Writes index.parquet: one row a clip, with its tar and the offset of each array."""
    shards = np.arange(len(folder.clip_ids)) // folder.clips_per_tar
    columns = {"clip_id": list(folder.clip_ids), "shard": shards}
    columns |= {f"offset_{name}": at for name, at in offsets.items()}
    about = orjson.dumps(_about(folder, offsets))
    table = pa.table(columns).replace_schema_metadata({_ABOUT_INDEX: about})
    with whole_file(folder.path / INDEX_NAME) as file:
        pq.write_table(table, file, compression="zstd")


def _read_index(folder: TarFolder) -> Offsets | None:
    """The offsets that the index has; None if it is not there, damaged or of another version."""
    columns = {name: f"offset_{name}" for name in folder.kept}
    try:
        data = pa.BufferReader((folder.path / INDEX_NAME).read_bytes())
        table = pq.read_table(data, columns=list(columns.values()))
    except StoreFault:  # a server that refuses, or is away
        raise
    except (OSError, pa.ArrowException):
        return None
    if set(table.column_names) != set(columns.values()) or any(c.null_count for c in table.columns):
        return None
    offsets = {name: table[at].to_numpy().astype(np.int64) for name, at in columns.items()}
    about = (table.schema.metadata or {}).get(_ABOUT_INDEX)
    return offsets if about == orjson.dumps(_about(folder, offsets)) else None


def _about(folder: TarFolder, offsets: Offsets) -> dict[str, object]:
    # Parquet has no checksums of its own: without the digest an altered index would be believed
    digest = canonical_digest({name: at.tolist() for name, at in offsets.items()})
    return {
        "format": _FORMAT,
        "hash": folder.hash,
        "clips_per_tar": folder.clips_per_tar,
        "offsets_digest": digest,
    }


def _not_in_order(path: Place, array: str) -> StoreFault:
    return StoreFault(
        "The manifest is not that of a folder of tar shards.",
        where=path / "versions",
        expected="clips sorted by id, each at the row of its number",
        got=f"other rows for {array}",
        fix="Export the store again.",
    )
