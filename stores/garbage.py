"""What a store keeps on the disk though no version names it, and its removal."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from stores.arrays import shard_path
from stores.atomic import PARTIAL, sync_folder
from stores.errors import StoreFault
from stores.journal import FinishedShard, read_entries
from stores.lock import write_lock
from stores.place import Place, RemotePath, bytes_below
from stores.reading import Store
from stores.schema import ARRAYS
from stores.settings import read_settings
from stores.tags import read_tags
from stores.version import list_versions, read_head

Kind = Literal["version", "manifest", "journal", "shard", "derived", "partial"]
Found = tuple[Kind, Place]
ShardName = tuple[str, int]
"""An array's name, and the number of one of its shards."""


@dataclass(frozen=True)
class Garbage:
    """One file, or one folder of derived arrays, that can go."""

    kind: Kind
    path: str
    """Below the store."""
    bytes: int


@dataclass(frozen=True)
class GcReport:
    """What no version needs, and what was done about it."""

    found: tuple[Garbage, ...]
    bytes: int
    """Of all that was found."""
    removed: bool
    """False after a dry run: all of it is still there."""
    versions_kept: int
    unfinished_bytes: int
    """Kept: shards of an interrupted encode, which goes on with them when it runs again."""


@dataclass(frozen=True)
class _Needs:
    """What one version needs, beside its own files."""

    parent: str | None
    shards: set[ShardName]
    sources: set[tuple[str, str]]
    """Clip ids with what a model can see of them: derived rows made from that are still right."""


def gc(
    store: Place, *, dry_run: bool, drop_versions: bool = False, drop_unfinished: bool = False
) -> GcReport:
    """Finds what no version needs, and removes it unless `dry_run`.

    That is: shards that no version names, derived arrays without a row that fits a version's clip,
    notes of encodes that were committed, and what killed writers left. `drop_versions` drops the
    versions that neither HEAD nor a tag leads to by way of parents; `drop_unfinished` the shards
    of an interrupted encode. Raises StoreFault, with nothing removed, while somebody else writes,
    or if a version was altered, or if HEAD or a tag names one that is not there.
    """
    read_settings(store)  # the lock would make a folder
    with ExitStack() as locks:
        for folder in (store, *_derived_folders(store)):
            locks.enter_context(write_lock(folder))
        needs = {name: _needs(store, name) for name in list_versions(store)}
        _check_names(store, needs)
        kept = _reachable(store, needs) if drop_versions else set(needs)
        spared = [] if drop_unfinished else _unfinished(store, needs)
        named = set[ShardName]().union(*(needs[name].shards for name in kept))
        for_resume = {shard for entry in spared for shard in _shards_of(entry)} - named
        paths = [
            *_dropped_versions(store, kept),
            *_entries(store, without=spared),
            *_shards(store, without=named | for_resume),
            *_derived(store, {source for name in kept for source in needs[name].sources}),
        ]
        paths = [*_partials(store, without={path for _, path in paths}), *paths]
        found = [Garbage(kind, str(p.relative_to(store)), bytes_below(p)) for kind, p in paths]
        waiting = sum(bytes_below(_file(store, *shard)) for shard in for_resume)
        if not dry_run:
            _remove(store, paths)
    total = sum(garbage.bytes for garbage in found)
    return GcReport(tuple(found), total, not dry_run, len(kept), waiting)


def _needs(store: Place, name: str) -> _Needs:
    """What the version needs. Raises StoreFault if it was altered."""
    version = Store(store, name)
    shards, sources = set[ShardName](), set[tuple[str, str]]()
    for array in ARRAYS:
        if f"row_{array}" not in version.version.table.column_names:
            continue
        rows = version.version.table[f"row_{array}"].to_numpy()
        numbers = np.unique(rows[rows >= 0] // version.clips_per_shard)
        shards |= {(array, int(number)) for number in numbers}
    if _derived_folders(store):
        digests = version.source_digests(version.clip_ids)
        sources = set(zip(version.clip_ids, digests, strict=True))
    return _Needs(version.version.record.parent, shards, sources)


def _check_names(store: Place, needs: dict[str, _Needs]) -> None:
    """Raises StoreFault if something names a version that was lost: its shards look like waste."""
    by_hand = {f"tag {tag}": name for tag, name in read_tags(store).items()}
    lost = {who: name for who, name in by_hand.items() if name not in needs}
    head = read_head(store)
    if head is not None and head not in needs:
        lost["HEAD"] = head
    for name, its in needs.items():  # a manifest without its record, but with a child
        if its.parent and its.parent not in needs and _manifest(store, its.parent).exists():
            lost[f"version {name[:12]}"] = its.parent
    if lost:
        raise StoreFault(
            "A version of this store is lost, so nobody can tell what it needs.",
            where=store / "versions",
            expected="the record of every version that HEAD, a tag or another version names",
            got=", ".join(f"{who} names {name[:12]}" for who, name in lost.items()),
            fix="Restore the version's two files from a copy, or remove the tag that names it.",
        )


def _reachable(store: Place, needs: dict[str, _Needs]) -> set[str]:
    """The versions that HEAD and the tags name, and all that they were made from."""
    head = read_head(store)
    if head is None and needs:
        raise StoreFault(
            "The store has versions but no HEAD, so nobody can tell which of them are in use.",
            where=store / "HEAD",
            expected="the hash of the current version",
            got="no such file",
            fix="Encode again, or write one of the hashes in versions/ to HEAD.",
        )
    waiting = [*read_tags(store).values(), *([head] if head else [])]
    found = set[str]()
    while waiting:
        name = waiting.pop()
        if name in needs and name not in found:
            found.add(name)
            waiting += [parent for parent in [needs[name].parent] if parent]
    return found


def _unfinished(store: Place, needs: dict[str, _Needs]) -> list[FinishedShard]:
    """Shards that an encode would take over: all files are there, and HEAD lacks some of them."""
    head = read_head(store)
    committed = needs[head].shards if head else set()
    return [
        entry
        for entry in read_entries(store / "journal")
        if all(_file(store, *shard).is_file() for shard in _shards_of(entry))
        and not _shards_of(entry) <= committed
    ]


def _dropped_versions(store: Place, kept: set[str]) -> Iterator[Found]:
    """Records first, since only they make a version; then manifests, those without one too."""
    folder = store / "versions"
    for path in _not_in(kept, folder.glob("*.json")):
        yield "version", path
    for path in _not_in(kept, folder.glob("*.parquet")):
        yield "manifest", path


def _entries(store: Place, *, without: list[FinishedShard]) -> Iterator[Found]:
    spared = {f"{entry.shard:06d}" for entry in without}
    for path in _not_in(spared, (store / "journal").glob("*.json")):
        yield "journal", path


def _shards(store: Place, *, without: set[ShardName]) -> Iterator[Found]:
    for array in ARRAYS:
        for folder in sorted((store / "arrays" / array / "c").glob("*")):
            shard = (array, int(folder.name)) if folder.name.isdecimal() else None
            if shard and shard not in without and _file(store, *shard).is_file():
                yield "shard", _file(store, *shard)


def _derived(store: Place, sources: set[tuple[str, str]]) -> Iterator[Found]:
    """Folders of derived arrays with rows, all of clips that no version has as they then were."""
    for folder in _derived_folders(store):
        try:
            entries = read_entries(folder / "rows")
        except StoreFault:
            continue  # damaged: not ours to judge
        pairs = (zip(entry.clip_ids, entry.clip_digests, strict=True) for entry in entries)
        rows = set(chain.from_iterable(pairs))
        if rows and not rows & sources:
            yield "derived", folder


def _partials(store: Place, *, without: set[Place]) -> Iterator[Found]:
    for path in sorted(store.rglob(f"*{PARTIAL}")):
        if not without & set(path.parents):
            yield "partial", path


def _remove(store: Place, paths: list[Found]) -> None:
    """Removes them in this order; a kill between two leaves a whole store and less waste."""
    try:
        for kind, path in paths:
            if path.is_dir():
                _remove_folder(path)
                continue
            path.unlink(missing_ok=True)
            if kind in ("version", "journal"):
                sync_folder(path.parent)  # before the shards that it names
            if kind == "shard":
                _remove_empty(path.parent, until=store / "arrays")
    except StoreFault:  # an object store refuses, and says why
        raise
    except OSError as refused:
        raise StoreFault(
            "Not all of it could be removed; the store is whole.",
            where=refused.filename or store,
            expected="files that can be removed",
            got=refused.strerror or str(refused),
            fix="Give write permission in the whole store, and run again.",
        ) from refused


def _remove_folder(folder: Place) -> None:
    """Never leaves half a folder that somebody would open."""
    (folder / "derived.json").unlink(missing_ok=True)
    if isinstance(folder, RemotePath):
        for path in folder.rglob("*"):
            path.unlink(missing_ok=True)
        return
    shutil.rmtree(folder.rename(folder.with_name(folder.name.removesuffix(PARTIAL) + PARTIAL)))


def _remove_empty(folder: Place, *, until: Place) -> None:
    if isinstance(folder, RemotePath):  # without objects it is not there
        return
    while folder.name != "c" and folder != until and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _not_in(stems: set[str], paths: Iterable[Place]) -> list[Place]:
    return sorted(path for path in paths if path.stem not in stems)


def _derived_folders(store: Place) -> list[Place]:
    every = sorted((store / "derived").glob("*"))
    return [path for path in every if path.is_dir() and path.suffix != PARTIAL]


def _shards_of(entry: FinishedShard) -> set[ShardName]:
    return {(array, entry.shard) for array in entry.digests}


def _file(store: Place, array: str, shard: int) -> Place:
    return shard_path(store / "arrays", ARRAYS[array], shard)


def _manifest(store: Place, name: str) -> Place:
    return store / "versions" / f"{name}.parquet"
