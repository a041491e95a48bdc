"""Arrays that a model made out of a store: written a shard at a time, read like the store's own."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import orjson

from stores.arrays import (
    ArrayReader,
    RowDamage,
    create_group,
    free_shard,
    grow_group,
    open_readers,
    shard_path,
    write_array_shard,
)
from stores.atomic import disk_faults, remove_partials, staged, write_whole
from stores.batch_memory import BatchMemory
from stores.errors import StoreFault
from stores.journal import FinishedShard, read_entries, write_entry
from stores.lock import write_lock
from stores.place import Place
from stores.schema import DERIVED, ArraySpec
from stores.version import STORE_FORMAT, StoreRecipe, check_format

DerivedRow = tuple[str, dict[str, np.ndarray]]
"""A clip's id and its row of every array of the group."""


@runtime_checkable
class Origin(Protocol):
    """The store that arrays are made out of; `stores.reading.Store` is one."""

    path: Place
    hash: str
    recipe: StoreRecipe
    clips_per_shard: int

    def source_digests(self, clip_ids: Sequence[str]) -> list[str]:
        """For each clip, a digest of all that a model can see of it."""
        ...


def write_derived(
    store: Origin,
    name: str,
    digest: str,
    rows: Iterable[DerivedRow],
    provenance: dict[str, Any],
) -> Place:
    """Writes the rows that are not there yet to derived/<name>-<digest>; returns that folder.

    `digest` (hex) names what made them: model and settings. Rows count as soon as their shard is
    written, so a run that was interrupted goes on; ask `finished_derived` for what can be left out.
    """
    specs, folder = _specs(name, store.path), _folder(store.path, name, digest)
    with disk_faults(folder), write_lock(folder):
        remove_partials(folder)
        create_group(folder, specs.values(), store.recipe.clips.shape, store.clips_per_shard)
        finished = finished_derived(store, name, digest)
        last = max((entry.shard for entry in _entries(folder)), default=-1)
        shard = max(last + 1, free_shard(folder, specs))
        fresh = (row for row in rows if row[0] not in finished)
        while batch := list(islice(fresh, store.clips_per_shard)):
            _write_batch(store, folder, specs, shard, batch)
            shard += 1
        about = {"format": STORE_FORMAT, "name": name, "digest": digest, "store": store.hash}
        about |= {"clips_per_shard": store.clips_per_shard, "provenance": provenance}
        write_whole(folder / "derived.json", orjson.dumps(about, option=orjson.OPT_INDENT_2))
    return folder


def finished_derived(store: Origin, name: str, digest: str) -> set[str]:
    """Ids of the clips whose rows are written and still belong to the store's data."""
    places = _places(_folder(store.path, name, digest), store.clips_per_shard)
    ids = [clip_id for clip_id in places if _known(store, clip_id)]
    now = store.source_digests(ids)
    return {c for c, source in zip(ids, now, strict=True) if places[c][1] == source}


class Derived:
    """Derived arrays, open for reading. Made by `Store.derived`."""

    def __init__(self, store: Origin, folder: Place):
        path = folder / "derived.json"
        about = _read_about(path)
        self.path, self.name, self.digest = folder, about["name"], about["digest"]
        self.provenance: dict[str, Any] = about["provenance"]
        self.specs = _specs(self.name, folder)
        self._store, self._places = store, _places(folder, about["clips_per_shard"])
        self._size, self._entries = about["clips_per_shard"], {e.shard: e for e in _entries(folder)}
        self._readers: dict[str, ArrayReader] = open_readers(
            folder,
            self.specs,
            store.recipe.clips.shape,
            about["clips_per_shard"],
            check=True,
            witnesses=self._witnesses,
        )

    @property
    def clip_ids(self) -> list[str]:
        """Ids of the clips that have rows, sorted."""
        return sorted(self._places)

    def read(
        self,
        array: str,
        clip_ids: Sequence[str],
        *,
        first_frame: bool = False,
        memory: BatchMemory | None = None,
    ) -> np.ndarray:
        """The clips' rows of one array, stacked "b ...", in `memory` if that is given.

        Raises StoreFault for clips without rows, or whose data changed after the rows were made.
        """
        if array not in self._readers:
            raise self._fault("No such array.", f"one of {list(self._readers)}", array)
        self.check_fresh(clip_ids)
        rows = [self._places[clip_id][0] for clip_id in clip_ids]
        reader = self._readers[array]
        try:
            return reader.read(rows, first_frame=first_frame, memory=memory)
        except RowDamage as damage:
            where = shard_path(self.path, reader.spec, damage.shard)
            hit = [c for c, row in zip(clip_ids, rows, strict=True) if damage.row in (None, row)]
            what = f"{self.name}/{array} of {', '.join(hit[:5])} cannot be read, shard {where}."
            raise self._fault(what, "the bytes that were written", damage.reason) from damage

    def check_fresh(self, clip_ids: Sequence[str]) -> None:
        """Raises StoreFault unless every clip has a row that was made from its present data."""
        absent = [clip_id for clip_id in clip_ids if clip_id not in self._places]
        if absent:
            some = ", ".join(absent[:5])
            raise self._fault("Clips without rows.", f"{len(clip_ids)} clips", f"none for {some}")
        now = self._store.source_digests(clip_ids)
        stale = [c for c, d in zip(clip_ids, now, strict=True) if self._places[c][1] != d]
        if stale:
            raise self._fault(
                "Rows that were made from other data.", "rows of the clips as they are", stale[:5]
            )

    def _witnesses(self, array: str, shard: int) -> list[tuple[int, str]]:
        digests = self._entries[shard].digests[array]
        return [(shard * self._size, digests[0])]

    def _fault(self, what: str, expected: object, got: object) -> StoreFault:
        return StoreFault(
            what,
            where=self.path,
            expected=expected,
            got=got,
            fix="Run the verb that made them again; what is finished is kept.",
        )


def _read_about(path: Place) -> dict[str, Any]:
    """What derived.json says. Raises StoreFault if it is damaged or newer than we are."""
    try:
        about = orjson.loads(path.read_bytes())
        check_format(path, about["format"])
        said = {key: about[key] for key in ("name", "digest", "clips_per_shard", "provenance")}
    except (orjson.JSONDecodeError, KeyError, TypeError) as foreign:
        raise _damaged(path, str(foreign)) from foreign
    named, size = f"{said['name']}-{said['digest']}", said["clips_per_shard"]
    if named != path.parent.name or not isinstance(size, int) or size < 1:
        raise _damaged(path, f"{named}, {size} clips a shard")
    return said


def _damaged(path: Place, got: str) -> StoreFault:
    return StoreFault(
        "Derived arrays whose description was altered.",
        where=path,
        expected="name and digest of its folder, clips a shard and provenance",
        got=got,
        fix="Run the verb that made them again; what is finished is kept.",
    )


def open_derived(
    store: Origin, name: str, digest: str | None, provenance: Mapping[str, Any] | None = None
) -> Derived:
    """The derived arrays of that name whose provenance says that, whatever else it says.

    Raises StoreFault if there are none, or several.
    """
    wanted, says = f"{name}-{digest or ''}", provenance or {}
    every = sorted(path.parent for path in store.path.glob("derived/*/derived.json"))
    found = [
        folder
        for folder in every
        if folder.name.startswith(wanted) and (not says or _says(folder, says))
    ]
    if len(found) == 1:
        return Derived(store, found[0])
    raise StoreFault(
        f"Which {name} is meant?" if found else f"The store has no {wanted}.",
        where=store.path / "derived",
        expected="the beginning of exactly one folder's name",
        got=[folder.name[:40] for folder in found or every],
        fix="Give more of the digest." if found else "Run the verb that makes it.",
    )


def _says(folder: Place, provenance: Mapping[str, Any]) -> bool:
    told = _read_about(folder / "derived.json")["provenance"]
    return all(key in told and told[key] == value for key, value in provenance.items())


def _write_batch(
    store: Origin, folder: Place, specs: dict[str, ArraySpec], shard: int, batch: list[DerivedRow]
) -> None:
    clip, size, digests = store.recipe.clips.shape, store.clips_per_shard, {}
    with staged(folder) as group:
        for array, spec in specs.items():
            rows: Iterator[np.ndarray] = (arrays[array] for _, arrays in batch)
            digests[array] = write_array_shard(group, spec, clip, size, shard, rows)
    ids = tuple(clip_id for clip_id, _ in batch)
    grow_group(folder, specs, (shard + 1) * size)
    sources = tuple(store.source_digests(ids))
    write_entry(folder / "rows", FinishedShard(shard, ids, sources, digests))


def _places(folder: Place, clips_per_shard: int) -> dict[str, tuple[int, str]]:
    """By clip id: the row number, and what the clip's data were; later shards win."""
    return {
        clip_id: (entry.shard * clips_per_shard + position, source)
        for entry in _entries(folder)
        for position, (clip_id, source) in enumerate(
            zip(entry.clip_ids, entry.clip_digests, strict=True)
        )
    }


def _entries(folder: Place) -> list[FinishedShard]:
    return read_entries(folder / "rows")


def _known(store: Origin, clip_id: str) -> bool:
    try:
        store.source_digests([clip_id])
    except StoreFault:
        return False
    return True


def _specs(name: str, where: Place) -> dict[str, ArraySpec]:
    if name in DERIVED:
        return DERIVED[name]
    raise StoreFault(
        "Derived arrays of this name are not known.",
        where=where,
        expected=f"one of {list(DERIVED)}",
        got=name,
        fix="Add the group to DERIVED in stores/schema.py, or upgrade exo2ego.",
    )


def _folder(store: Place, name: str, digest: str) -> Place:
    if not re.fullmatch(r"[0-9a-f]{8,128}", digest):
        raise ValueError(f"a digest is 8 to 128 hex digits, got {digest!r}")
    return store / "derived" / f"{name}-{digest}"
