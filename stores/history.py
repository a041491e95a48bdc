"""What became of a store: its versions from the newest back, how two differ, and their tags."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from stores.atomic import disk_faults
from stores.clip_list import clip_change
from stores.errors import StoreFault
from stores.index import row_from_dict
from stores.lock import write_lock
from stores.place import Place
from stores.resolve import resolve
from stores.settings import differing_fields, read_settings
from stores.store_hash import digest_rows
from stores.tags import check_tag_name, read_tags, write_tags
from stores.version import (
    StoreRecipe,
    Version,
    VersionRecord,
    list_versions,
    read_version,
)

Digests = dict[str, dict[str, str]]
"""By clip id: the digests of its arrays that are kept, and of its index row (`clip`)."""


@dataclass(frozen=True)
class LogEntry:
    """One version, against the version before it."""

    hash: str
    parent: str | None
    when: str
    command: str
    clips: int
    added: int | None
    """Clips that its parent has not; None if the parent is no longer there to compare with."""
    changed: int | None
    removed: int | None
    tags: tuple[str, ...]
    on_path: bool
    """True if the log's first version was made from it, by way of parents, or is it."""


@dataclass(frozen=True)
class StoredChange:
    """One clip that both versions have, and not the same."""

    clip_id: str
    arrays: tuple[str, ...]
    """In words, one entry an array: other numbers, or kept in one version only."""
    fields: tuple[str, ...]
    """In words, one entry a difference of what the index says of the clip."""


@dataclass(frozen=True)
class StoreDiff:
    """How two versions differ, of one store or of two."""

    hashes: tuple[str, str]
    recipe: Mapping[str, tuple[Any, Any]]
    """Both values of every field of the recipes that differs, by dotted name."""
    clips: tuple[int, int]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    changed: tuple[StoredChange, ...]

    @property
    def is_same(self) -> bool:
        """True if the two hold the same numbers under one recipe, wherever they lie."""
        return self.hashes[0] == self.hashes[1]


def log(store: str | Place) -> list[LogEntry]:
    """The versions from HEAD (or "S@name") back through parents, then the others, newest first.

    Raises StoreFault if one of them was altered.
    """
    folder, start = resolve(store)
    recipe, tags = read_settings(folder).recipe, read_tags(folder)
    known = list_versions(folder)

    @lru_cache(maxsize=2)  # a version and its parent: manifests may be large
    def read(name: str) -> tuple[VersionRecord, Digests]:
        version = read_version(folder, recipe, name)
        return version.record, _digests(version)

    def entry(name: str, *, on_path: bool) -> LogEntry:
        record, now = read(name)
        has_parent = record.parent is None or record.parent in known
        before = read(record.parent)[1] if record.parent in known else {}
        return LogEntry(
            hash=name,
            parent=record.parent,
            when=record.when,
            command=record.command,
            clips=record.clips,
            added=len(now.keys() - before.keys()) if has_parent else None,
            changed=_changed(before, now) if has_parent else None,
            removed=len(before.keys() - now.keys()) if has_parent else None,
            tags=tuple(sorted(tag for tag, named in tags.items() if named == name)),
            on_path=on_path,
        )

    path = {start: entry(start, on_path=True)}
    while (name := list(path.values())[-1].parent) in known and name not in path:
        path[name] = entry(name, on_path=True)
    others = [entry(name, on_path=False) for name in known if name not in path]
    return [*path.values(), *sorted(others, key=lambda other: other.when, reverse=True)]


def diff(a: str | Place, b: str | Place) -> StoreDiff:
    """What differs from version `a` to version `b`, each "S", "S@tag" or "S@prefix"."""
    (recipe_a, version_a), (recipe_b, version_b) = _open(a), _open(b)
    of_a, of_b = _digests(version_a), _digests(version_b)
    differing = [clip_id for clip_id in of_a if of_b.get(clip_id, of_a[clip_id]) != of_a[clip_id]]
    fields = _field_changes(version_a, version_b, differing)
    changed = [
        StoredChange(clip_id, _array_changes(of_a[clip_id], of_b[clip_id]), fields[clip_id])
        for clip_id in differing
    ]
    return StoreDiff(
        hashes=(version_a.record.hash, version_b.record.hash),
        recipe=differing_fields(recipe_a, recipe_b),
        clips=(len(of_a), len(of_b)),
        only_in_a=tuple(sorted(of_a.keys() - of_b.keys())),
        only_in_b=tuple(sorted(of_b.keys() - of_a.keys())),
        changed=tuple(changed),
    )


def tag(store: str | Place, name: str, version: str | None = None) -> str:
    """Lets `name` name a version ("S@name"), HEAD if none is given; returns its hash.

    `version` is a hash, the beginning of one, or another tag. Raises StoreFault if it is not
    there or was altered, if the name will not do, or if it names another version already.
    """
    check_tag_name(name)
    folder, found = resolve(store if version is None else f"{store}@{version}")
    with disk_faults(folder), write_lock(folder):
        read_version(folder, read_settings(folder).recipe, found)
        tags = read_tags(folder)
        if tags.get(name, found) != found:
            raise StoreFault(
                "This tag names another version already; tags do not move.",
                where=folder,
                expected=f"a name other than {', '.join(sorted(tags))}",
                got=f"{name}, which is {tags[name][:12]}",
                fix=f"Choose another name, or remove the tag {name} first.",
            )
        write_tags(folder, tags | {name: found})
    return found


def untag(store: str | Place, name: str) -> str:
    """Removes the tag, and nothing of what it names; returns the hash that it named."""
    folder = resolve(store)[0]
    with disk_faults(folder), write_lock(folder):
        tags = read_tags(folder)
        if name not in tags:
            raise StoreFault(
                "The store has no such tag.",
                where=folder,
                expected=f"one of {', '.join(sorted(tags)) or 'none: nothing is tagged'}",
                got=name,
                fix="`exo2ego store log` shows all tags.",
            )
        write_tags(folder, {other: named for other, named in tags.items() if other != name})
    return tags[name]


def _open(store: str | Place) -> tuple[StoreRecipe, Version]:
    folder, name = resolve(store)
    recipe = read_settings(folder).recipe
    return recipe, read_version(folder, recipe, name)


def _digests(version: Version) -> Digests:
    rows = digest_rows(version.table)
    return {clip_id: {name: d for name, d in named.items() if d} for clip_id, named in rows}


def _changed(before: Digests, now: Digests) -> int:
    return sum(now.get(clip_id, named) != named for clip_id, named in before.items())


def _array_changes(a: dict[str, str], b: dict[str, str]) -> tuple[str, ...]:
    def words() -> Iterator[str]:
        for name in sorted({*a, *b} - {"clip"}):
            if name not in a or name not in b:
                yield f"{name}: only in {'a' if name in a else 'b'}"
            elif a[name] != b[name]:
                yield f"{name}: other numbers"

    return tuple(words())


def _field_changes(a: Version, b: Version, clip_ids: list[str]) -> dict[str, tuple[str, ...]]:
    """By clip id, in words: what the index says otherwise of it."""
    tables = []
    for version in (a, b):
        places = {clip_id: k for k, clip_id in enumerate(version.table["clip_id"].to_pylist())}
        table = version.manifest.take(pa.array([places[c] for c in clip_ids], pa.int64()))
        tables.append([row_from_dict(plain) for plain in table.to_pylist()])
    pairs = zip(clip_ids, *tables, strict=True)
    return {clip_id: clip_change(of_a, of_b).what for clip_id, of_a, of_b in pairs}
