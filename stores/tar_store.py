"""A version of a store as WebDataset tar shards and back: export and import, with the same hash."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from stores.arrays import RowDamage, row_digest
from stores.atomic import PARTIAL, disk_faults, remove_partials
from stores.damage import damaged_rows
from stores.errors import StoreFault
from stores.journal import FinishedShard, read_entries
from stores.lock import write_lock
from stores.place import Place
from stores.progress import Track, silent
from stores.reading import Store
from stores.resolve import resolve
from stores.schema import ARRAYS
from stores.settings import WEBDATASET, StoreSettings, read_settings, write_settings
from stores.shard import ShardDamage
from stores.store_hash import store_hash
from stores.tar_index import TarFolder, load_offsets, tar_folder
from stores.tar_reading import TarStore
from stores.tar_shard import write_tar
from stores.version import (
    ABSENT_ROW,
    StoredClip,
    as_stored,
    clip_digest,
    copy_version,
    list_versions,
    move_head,
    read_head,
    read_version,
)
from stores.zarr_store import CLIPS_PER_SHARD, commit, create_store, stored_clips, write_shard


@dataclass(frozen=True)
class TarReport:
    """What an export has made."""

    out: Place
    hash: str
    clips: int
    shards: int
    shards_new: int
    """Tars written now; the others were there already."""
    bytes: int
    """Length of all tars."""


def export_tar(
    store: Store, out: Place, *, clips_per_tar: int = CLIPS_PER_SHARD, track: Track = silent
) -> TarReport:
    """Writes the store's version to `out` as WebDataset tar shards; it has the same hash there.

    Goes on where an interrupted export stopped: finished tars are kept. Derived arrays are left
    out: the verb that made them makes them again. Raises StoreFault for a damaged row, or if
    something else lies at `out`.
    """
    if clips_per_tar < 1:
        raise ValueError(f"{clips_per_tar} clips a tar")
    _check_free(store, out, clips_per_tar)
    with disk_faults(out), write_lock(out):
        remove_partials(out)
        folder = _prepare(store, out, clips_per_tar)
        clips = iter(track(store.rows, total=len(store.rows), what="export", unit="clips"))
        new = [_export_shard(store, folder, shard, clips) for shard in range(folder.shards)]
        load_offsets(folder)
        move_head(out, None, store.hash)
    size = sum(folder.file_of(shard).stat().st_size for shard in range(folder.shards))
    return TarReport(out, store.hash, len(store.clip_ids), folder.shards, sum(new), size)


def import_tar(
    folder: str | Place,
    store_path: Place,
    *,
    clips_per_shard: int = CLIPS_PER_SHARD,
    track: Track = silent,
) -> str:
    """Makes a Zarr store of exported tars, once every byte is what the manifest says; its hash.

    Goes on where an interrupted import stopped. Raises StoreFault, naming clip, array and tar, if
    anything is damaged, missing or does not belong there, or if the store holds something else.
    """
    source = _open_tars(folder)
    tars = range(source.folder.shards)
    for shard in track(tars, total=len(tars), what="check", unit="tars"):
        source.check_tar(shard)
    _check_hash(source)
    with disk_faults(store_path), write_lock(store_path):
        settings = create_store(store_path, source.recipe, clips_per_shard=clips_per_shard)
        head = read_head(store_path)
        if head not in (None, source.hash):
            raise _occupied(store_path, f"no clips, or those of {source.hash[:12]}", head[:12])
        if head is None:
            remove_partials(store_path)
            new = list(_import_clips(source, store_path, settings.clips_per_shard, track))
            command = f"exo2ego store import {source.path}"
            digest = source.version.record.index_digest
            commit(store_path, new, command=command, index_digest=digest)
    return source.hash


def checked_row(store: Store, array: str, clip: StoredClip) -> np.ndarray:
    """The clip's row of the array. Raises StoreFault unless it has the manifest's digest."""
    row = store.read(array, [clip.clip_id])[0]
    reader, number = store.reader(array), clip.rows[array]
    if row_digest(reader.layout, row) == clip.digests[array]:
        return row
    reason = "the numbers are not those of the manifest"
    damage = RowDamage(reader.shard_of(number), number, reason)
    raise damaged_rows(reader, damage, [clip.clip_id], [number])


def kept_arrays(clip: StoredClip) -> tuple[str, ...]:
    """Names of the arrays that are kept for the clip, in the order of the schema."""
    return tuple(name for name in ARRAYS if clip.rows[name] != ABSENT_ROW)


def _check_free(store: Store, out: Place, clips_per_tar: int) -> None:
    """Raises StoreFault unless `out` is empty, or an export of the same version and size."""
    expected = f"an empty folder, or tars of {store.hash[:12]}, {clips_per_tar} clips each"
    if (out / "store.json").exists():
        found, others = read_settings(out), set(list_versions(out)) - {store.hash}
        same = found == StoreSettings(store.recipe, clips_per_tar, WEBDATASET)
        if not same or others:
            what = ", ".join(name[:12] for name in others) or "no other version"
            got = f"a {found.container} store, {found.clips_per_shard} clips a shard, {what}"
            raise _occupied(out, expected, got)
    elif out.exists():
        names = [path.name for path in out.iterdir()] if out.is_dir() else ["a file"]
        foreign = [name for name in names if name != "lock" and not name.endswith(PARTIAL)]
        if foreign:
            raise _occupied(out, expected, ", ".join(sorted(foreign)[:5]))


def _prepare(store: Store, out: Place, clips_per_tar: int) -> TarFolder:
    """Writes all but the tars and HEAD: settings, record, and a manifest with the tars' rows."""
    write_settings(out, StoreSettings(store.recipe, clips_per_tar, WEBDATASET))
    clips = [
        as_stored(clip, {name: number for name in kept_arrays(clip)}, clip.digests)
        for number, clip in enumerate(store.rows)
    ]
    copy_version(out, store.version.record, clips)
    manifest = read_version(out, store.recipe, store.hash).table
    return tar_folder(out, store.hash, store.recipe, clips_per_tar, manifest)


def _export_shard(store: Store, folder: TarFolder, shard: int, clips: Iterator[StoredClip]) -> bool:
    """Writes one tar of the next clips, unless it is there; True if it was written."""
    members = islice(clips, folder.clips_per_tar)
    if _is_finished(folder, shard):
        list(members)
        return False
    write_tar(folder.file_of(shard), folder.layouts, ((c, _rows(store, c)) for c in members))
    return True


def _rows(store: Store, clip: StoredClip) -> Mapping[str, np.ndarray]:
    return {name: checked_row(store, name, clip) for name in kept_arrays(clip)}


def _is_finished(folder: TarFolder, shard: int) -> bool:
    try:
        return len(list(folder.members(shard))) > 0
    except ShardDamage:
        return False


def _open_tars(folder: str | Place) -> TarStore:
    path, name = resolve(folder)
    container = read_settings(path).container
    if container == WEBDATASET:
        return TarStore(path, name)
    raise StoreFault(
        "This is not a folder of tar shards.",
        where=path,
        expected="what `exo2ego store export --format webdataset` has made",
        got=f"a {container} store",
        fix="Use the store as it is, or export it first.",
    )


def _check_hash(source: TarStore) -> None:
    """Raises StoreFault unless the manifest's clips, cameras and all, have the hash of its name."""
    digests = [(c.clip_id, {**c.digests, "clip": clip_digest(c)}) for c in source.rows]
    found = store_hash(source.recipe, digests)
    if found != source.hash:
        raise StoreFault(
            "The manifest says other things of its clips than its digests do.",
            where=source.path / "versions",
            expected=f"hash {source.hash[:12]}",
            got=found[:12],
            fix="Export the store again, or restore the manifest from a copy.",
        )


def _import_clips(
    source: TarStore, store: Place, clips_per_shard: int, track: Track
) -> Iterator[StoredClip]:
    """The clips, one shard after the other, as soon as it is written."""
    plan = _plan(source.rows, clips_per_shard)
    finished = {entry.shard: entry for entry in read_entries(store / "journal")}
    for shard, clips in enumerate(track(plan, total=len(plan), what="import", unit="shards")):
        entry = finished.get(shard)
        if entry is None or not _holds(entry, clips):
            rows = {name: _checked_rows(source, name, clips) for name in kept_arrays(clips[0])}
            entry = write_shard(store, shard, clips, rows)
        by_id = {clip.clip_id: clip for clip in clips}
        for clip in stored_clips(entry, by_id, clips_per_shard):
            # what the source makes when it is read has a digest, and no row here either
            yield as_stored(clip, clip.rows, by_id[clip.clip_id].digests)


def _plan(clips: Iterable[StoredClip], clips_per_shard: int) -> list[list[StoredClip]]:
    """The clips of each shard: of one take, as an encode has it, and with the same arrays."""
    alike: dict[tuple[str, ...], list[StoredClip]] = {}
    for clip in clips:
        alike.setdefault((clip.take_name, *kept_arrays(clip)), []).append(clip)
    return [
        members[first : first + clips_per_shard]
        for members in alike.values()
        for first in range(0, len(members), clips_per_shard)
    ]


def _checked_rows(source: TarStore, array: str, clips: list[StoredClip]) -> Iterator[np.ndarray]:
    return (checked_row(source, array, clip) for clip in clips)


def _holds(entry: FinishedShard, clips: list[StoredClip]) -> bool:
    """True if the shard was finished, by an import before, with just these clips and rows."""
    ids, digests = tuple(c.clip_id for c in clips), tuple(map(clip_digest, clips))
    rows = {name: [clip.digests[name] for clip in clips] for name in kept_arrays(clips[0])}
    return entry.answers(ids, digests, set(rows)) and entry.digests == rows


def _occupied(path: Place, expected: str, got: str) -> StoreFault:
    return StoreFault(
        "Something else lies here.",
        where=path,
        expected=expected,
        got=got,
        fix="Give another path.",
    )
