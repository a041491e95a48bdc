"""The store on disk: creating it, writing whole shards, committing versions, opening it."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from stores.arrays import (
    create_group,
    digest_rows,
    free_shard,
    group_rows,
    grow_group,
    write_array_shard,
)
from stores.atomic import disk_faults, staged
from stores.errors import StoreFault
from stores.index import ClipRow
from stores.journal import FinishedShard, drop_entries, write_entry
from stores.place import Place
from stores.reading import Derive, Store
from stores.resolve import resolve
from stores.schema import ARRAYS
from stores.settings import (
    WEBDATASET,
    ZARR,
    StoreSettings,
    check_same_recipe,
    read_settings,
    write_settings,
)
from stores.tar_reading import TarStore
from stores.version import (
    ABSENT_ROW,
    StoredClip,
    StoreRecipe,
    as_stored,
    clip_digest,
    move_head,
    read_head,
    read_version,
    write_version,
)

_NO_ARRAYS: Mapping[str, Iterable[np.ndarray]] = MappingProxyType({})
_NONE_KEPT: Mapping[str, StoredClip] = MappingProxyType({})
CLIPS_PER_SHARD = 64
"""Choice: 24 MiB of exo latents, and 77 source seconds of one take at the default step."""


def create_store(
    path: Place, recipe: StoreRecipe, *, clips_per_shard: int = CLIPS_PER_SHARD
) -> StoreSettings:
    """Makes an empty store, or finds one of the same recipe there; returns what holds for it.

    Raises StoreFault if the store has another recipe, or if the folder is something else.
    """
    if (path / "store.json").exists():
        settings = read_settings(path)
        if settings.container != ZARR:
            raise _not_ours(path, "a Zarr store, or none", f"an export ({settings.container})")
        check_same_recipe(path, settings.recipe, recipe)
        return settings
    foreign = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    if foreign and set(foreign) - {"arrays", "lock"}:
        raise _not_ours(path, "an empty folder, or none", f"a folder with {sorted(foreign)[:5]}")
    settings = StoreSettings(recipe, clips_per_shard)
    try:
        create_group(path / "arrays", ARRAYS.values(), recipe.clips.shape, clips_per_shard)
        write_settings(path, settings)
    except StoreFault:
        raise
    except OSError as refused:
        raise _not_ours(path, "a folder that can be written", str(refused)) from refused
    return settings


def open_store(
    store: str | Place, *, check: bool = True, derive: Mapping[str, Derive] | None = None
) -> Store:
    """The version that "S" (its HEAD) or "S@prefix" names, open for reading.

    S is a Zarr store or an exported folder of tars. `check` compares every piece that is read
    with its crc32c, where the container has one. `derive` makes, by the array's name, rows that
    a factored store does not keep. Raises StoreFault if there is no
    such store or version, if it is newer than we are, or if its manifest was altered.
    """
    path, name = resolve(store)
    kind = TarStore if read_settings(path).container == WEBDATASET else Store
    return kind(path, name, check=check, derive=derive)


def write_shard(
    path: Place,
    shard: int,
    clips: Sequence[ClipRow],
    arrays: Mapping[str, Iterable[np.ndarray]],
    factored: Mapping[str, Iterable[np.ndarray]] = _NO_ARRAYS,
) -> FinishedShard:
    """Writes one whole shard of every array given: a row a clip, in the order of `clips`.

    Of the `factored` arrays only the digests are kept, of the bits that the rows would have.
    Exactly one writer may write a shard. It belongs to no version until `commit`, but survives
    an interruption: it is recorded in the journal once all of its files are there.
    """
    settings = read_settings(path)
    shape, size = settings.recipe.clips.shape, settings.clips_per_shard
    if len(clips) > size:
        raise ValueError(f"{len(clips)} clips in a shard of {size}")
    with staged(path / "arrays") as group:
        digests = {
            name: write_array_shard(group, ARRAYS[name], shape, size, shard, rows)
            for name, rows in arrays.items()
        }
        apart = {
            name: digest_rows(path / "arrays", ARRAYS[name], shape, size, rows)
            for name, rows in factored.items()
        }
        every = digests | apart
        short = {name: len(found) for name, found in every.items() if len(found) != len(clips)}
        if short:
            raise ValueError(f"{len(clips)} clips, but rows: {short}")
    clip_ids = tuple(clip.clip_id for clip in clips)
    finished = FinishedShard(shard, clip_ids, tuple(map(clip_digest, clips)), digests, apart)
    write_entry(path / "journal", finished)
    return finished


def stored_clips(
    finished: FinishedShard,
    clips: Mapping[str, ClipRow],
    clips_per_shard: int,
    *,
    kept: Mapping[str, StoredClip] = _NONE_KEPT,
) -> list[StoredClip]:
    """The clips of a finished shard with their places; `clips` by id.

    Arrays that the shard does not have stay where `kept`, by id, has them.
    """
    first, every = finished.shard * clips_per_shard, finished.digests | finished.factored
    found = []
    for k, clip_id in enumerate(finished.clip_ids):
        before = kept.get(clip_id)
        rows = dict(before.rows) if before else {}
        rows |= dict.fromkeys(finished.factored, ABSENT_ROW)
        rows |= dict.fromkeys(finished.digests, first + k)
        digests = dict(before.digests) if before else {}
        digests |= {name: of_shard[k] for name, of_shard in every.items()}
        found.append(as_stored(clips[clip_id], rows, digests))
    return found


def commit(path: Place, clips: Iterable[StoredClip], *, command: str, index_digest: str) -> str:
    """Makes a version of HEAD's clips and these (which replace equal ids); returns its hash.

    Everything that it names is on the disk before HEAD names it, so a reader never sees half.
    Raises StoreFault if somebody else has moved HEAD meanwhile.
    """
    settings, parent = read_settings(path), read_head(path)
    together = {clip.clip_id: clip for clip in _clips_of(path, settings.recipe, parent)}
    together |= {clip.clip_id: clip for clip in clips}
    size = settings.clips_per_shard
    last = max((row for clip in together.values() for row in clip.rows.values()), default=-1)
    with disk_faults(path):
        grow_group(path / "arrays", ARRAYS, (last // size + 1) * size)
        name = write_version(
            path,
            settings.recipe,
            list(together.values()),
            parent=parent,
            command=command,
            index_digest=index_digest,
        )
        if name != parent:
            move_head(path, parent, name)
        drop_entries(path / "journal")
    return name


def head_clips(path: Place) -> list[StoredClip]:
    """The clips of the current version; none before the first commit."""
    return _clips_of(path, read_settings(path).recipe, read_head(path))


def next_shard(path: Place) -> int:
    """The first shard number that no version has ever used, nor may a new shard have."""
    group, size = path / "arrays", read_settings(path).clips_per_shard
    return max(group_rows(group, ARRAYS) // size, free_shard(group, ARRAYS))


def _clips_of(path: Place, recipe: StoreRecipe, name: str | None) -> list[StoredClip]:
    return read_version(path, recipe, name).clips() if name else []


def _not_ours(path: Place, expected: str, got: str) -> StoreFault:
    return StoreFault(
        "A store cannot be made here.",
        where=path,
        expected=expected,
        got=got,
        fix="Give another path for the store.",
    )
