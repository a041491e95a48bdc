"""One version of a store, open for reading: which clips there are, and their arrays."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import blake3
import numpy as np

from stores.arrays import ArrayReader, RowDamage, open_readers
from stores.derived import Derived, open_derived
from stores.errors import StoreFault
from stores.schema import ARRAYS
from stores.settings import read_settings
from stores.version import ABSENT_ROW, StoredClip, read_version


class Store:
    """One version of a store. Safe to read from many threads. `stores.zarr_store.open_store`."""

    def __init__(self, path: Path, name: str, *, threads: int = 1, check: bool = True):
        settings = read_settings(path)
        self.path, self.hash = path, name
        self.container = settings.container
        self.recipe, self.clips_per_shard = settings.recipe, settings.clips_per_shard
        self.version = read_version(path, self.recipe, name)
        self.clip_ids: list[str] = self._column("clip_id")
        self._number = {clip_id: k for k, clip_id in enumerate(self.clip_ids)}
        known = [a for a in ARRAYS if f"row_{a}" in self.version.manifest.column_names]
        self._row_numbers = {a: np.array(self._column(f"row_{a}"), np.int64) for a in known}
        self._readers = self._open_readers(known, threads=threads, check=check)

    @cached_property
    def rows(self) -> list[StoredClip]:
        """The clips, in the order of their ids."""
        return self.version.clips()

    def row(self, clip_id: str) -> StoredClip:
        """One clip. Raises StoreFault if this version does not have it."""
        return self.rows[self._clip_number(clip_id)]

    def select(
        self,
        split: str | None = None,
        evaluation_set: str | None = None,
        category: str | None = None,
    ) -> list[str]:
        """Ids of the clips that are all of what is asked for, sorted; None asks for nothing."""
        asked = zip(
            self.clip_ids,
            self._column("split"),
            self._column("sets"),
            self._column("category"),
            strict=True,
        )
        return [
            clip_id
            for clip_id, its_split, its_sets, its_category in asked
            if split in (None, its_split)
            and (evaluation_set is None or evaluation_set in its_sets)
            and category in (None, its_category)
        ]

    def read(self, array: str, clip_ids: Sequence[str], *, first_frame: bool = False) -> np.ndarray:
        """The clips' rows of one array, stacked "b ..."; only frame 0 with `first_frame`.

        Raises StoreFault, naming array, shard and clips, if one is missing or was altered.
        """
        return self.begin(array, clip_ids, first_frame=first_frame)()

    def begin(
        self, array: str, clip_ids: Sequence[str], *, first_frame: bool = False
    ) -> Callable[[], np.ndarray]:
        """Begins a `read` in other threads; a call of what comes out finishes it.

        So the arrays of a batch are read beside each other, with one wait for all of them."""
        reader = self.reader(array)
        if first_frame and not reader.spec.frames_apart:
            raise self._fault(
                f"{array} has no first frame that can be read alone.",
                expected=f"one of {[name for name, spec in ARRAYS.items() if spec.frames_apart]}",
                got=f"{array} ({reader.spec.axes})",
            )
        rows = self.row_numbers(array, clip_ids)
        finish = reader.begin(rows, first_frame=first_frame)

        def finish_or_fault() -> np.ndarray:
            try:
                return finish()
            except RowDamage as damage:
                raise damaged_rows(reader, damage, clip_ids, rows) from damage

        return finish_or_fault

    def reader(self, array: str) -> ArrayReader:
        """Reader of one array by row numbers. Raises StoreFault if there is no such array."""
        if array in self._readers:
            return self._readers[array]
        raise self._fault(
            "The store has no such array.", expected=f"one of {list(self._readers)}", got=array
        )

    def row_numbers(self, array: str, clip_ids: Sequence[str]) -> list[int]:
        """Where the clips lie in the array. Raises StoreFault if it was not kept for one."""
        self.reader(array)
        numbers = self._row_numbers[array]
        rows = [int(numbers[self._clip_number(clip_id)]) for clip_id in clip_ids]
        absent = [c for c, row in zip(clip_ids, rows, strict=True) if row == ABSENT_ROW]
        if not absent:
            return rows
        unfilmed = ARRAYS[array].of_ego_video and not self.row(absent[0]).ego.video
        raise self._fault(
            f"The store does not keep {array} for these clips.",
            expected=f"{array} of {len(clip_ids)} clips",
            got=f"none for {name_some(absent)}" + ": no ego video" * unfilmed,
            fix="Leave these clips out: they are for sampling alone, not for training or scores."
            if unfilmed
            else "Keep it when encoding: `exo2ego encode-latents ... --frames-for SPLIT`.",
        )

    def derived(self, name: str, digest: str | None = None) -> Derived:
        """Arrays that a model made out of this store; `digest` (a prefix) if there are several."""
        return open_derived(self, name, digest)

    def source_digests(self, clip_ids: Sequence[str]) -> list[str]:
        """For each clip, blake3 of its latents' and rays' digests: what a model can see of it."""
        return [self._sources[self._clip_number(clip_id)] for clip_id in clip_ids]

    def info(self) -> dict[str, Any]:
        """Hash, counts, size, recipe, record of the version, and derived arrays, as plain JSON."""
        files = [path for path in self.path.rglob("*") if path.is_file()]
        return {
            "path": str(self.path),
            "container": self.container,
            "hash": self.hash,
            "clips": len(self.clip_ids),
            "takes": len(set(self._column("take_name"))),
            "splits": dict(Counter(self._column("split"))),
            "categories": dict(Counter(self._column("category"))),
            "arrays": {a: int((rows >= 0).sum()) for a, rows in self._row_numbers.items()},
            "clips_per_shard": self.clips_per_shard,
            "bytes": sum(path.stat().st_size for path in files),
            "recipe": self.recipe.model_dump(mode="json"),
            "version": self.version.record.model_dump(mode="json"),
            "derived": sorted(
                path.parent.name for path in self.path.glob("derived/*/derived.json")
            ),
        }

    @cached_property
    def _sources(self) -> list[str]:
        names = [name for name, spec in ARRAYS.items() if spec.every_clip]
        together = zip(*(self._column(f"digest_{name}") for name in names), strict=True)
        return [blake3.blake3("".join(digests).encode()).hexdigest() for digests in together]

    def _open_readers(
        self, arrays: Sequence[str], *, threads: int, check: bool
    ) -> dict[str, ArrayReader]:
        """A reader for each of the arrays: what differs from container to container."""
        return open_readers(
            self.path / "arrays",
            {name: ARRAYS[name] for name in arrays},
            self.recipe.clips.shape,
            self.clips_per_shard,
            threads=threads,
            check=check,
        )

    def _column(self, name: str) -> list[Any]:
        return self.version.manifest[name].to_pylist()

    def _clip_number(self, clip_id: str) -> int:
        if clip_id in self._number:
            return self._number[clip_id]
        raise self._fault(
            "This version of the store does not have the clip.",
            expected=f"one of its {len(self.clip_ids)} clips",
            got=clip_id,
        )

    def _fault(
        self, what: str, *, expected: str, got: str, fix: str = "`exo2ego store info` shows all."
    ) -> StoreFault:
        where = f"{self.path}@{self.hash[:12]}"
        return StoreFault(what, where=where, expected=expected, got=got, fix=fix)


def damaged_rows(
    reader: ArrayReader, damage: RowDamage, clip_ids: Sequence[str], rows: Sequence[int]
) -> StoreFault:
    """The fault that names array, shard and those of the clips that the damage hits."""
    hit = [
        clip_id
        for clip_id, row in zip(clip_ids, rows, strict=True)
        if (row == damage.row if damage.row is not None else reader.shard_of(row) == damage.shard)
    ]
    return StoreFault(
        f"{reader.spec.name} of {name_some(hit)} cannot be read: {damage.reason}.",
        where=f"shard {damage.shard}, {reader.file_of(damage.shard)}",
        expected="the bytes that were written",
        got=damage.reason,
        fix="Restore the file from a copy; `exo2ego store verify` lists all that is damaged.",
    )


def name_some(clip_ids: Iterable[str], most: int = 5) -> str:
    """The first few ids, and how many more there are."""
    ids = list(clip_ids)
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more
