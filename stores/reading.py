"""One version of a store, open for reading: which clips there are, and their arrays."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import blake3
import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int64

from stores.arrays import ArrayReader, RowDamage, open_readers
from stores.batch_memory import BatchMemory
from stores.damage import damaged_rows, name_some
from stores.derived import Derived, open_derived
from stores.errors import StoreFault
from stores.index import ClipRow
from stores.place import Place, bytes_below
from stores.recipe import ClipRecipe
from stores.schema import ARRAYS, CAMERA_ARRAYS
from stores.settings import read_settings
from stores.version import ABSENT_ROW, StoredClip, read_version

pc: Any = pyarrow.compute  # its functions are made at import: no checker sees them
Derive = Callable[[ClipRecipe, ClipRow], np.ndarray]
"""Makes a clip's row of an array out of its cameras; `exo2ego.geometry.clip_rays` has them."""


class Store:
    """One version of a store. Safe to read from many threads. `stores.open_store` makes it."""

    def __init__(
        self,
        path: Place,
        name: str,
        *,
        check: bool = True,
        derive: Mapping[str, Derive] | None = None,
    ):
        settings = read_settings(path)
        self.path, self.hash = path, name
        self.container = settings.container
        self.recipe, self.clips_per_shard = settings.recipe, settings.clips_per_shard
        self.version = read_version(path, self.recipe, name)
        self.clip_ids: list[str] = self._column("clip_id").to_pylist()
        self._number = {clip_id: k for k, clip_id in enumerate(self.clip_ids)}
        known = [a for a in ARRAYS if f"row_{a}" in self.version.table.column_names]
        self._row_numbers = {a: self._column(f"row_{a}").to_numpy() for a in known}
        self._orders: dict[str, np.ndarray] = {}
        self._readers = self._open_readers(known, check=check)
        self.derive, self._derived_memory = derive or {}, BatchMemory()

    @cached_property
    def rows(self) -> list[StoredClip]:
        """The clips, in the order of their ids."""
        return self.version.clips()

    def row(self, clip_id: str) -> StoredClip:
        """One clip. Raises StoreFault if this version does not have it."""
        return self.version.clip(int(self.numbers([clip_id])[0]))

    def select(
        self,
        split: str | None = None,
        evaluation_set: str | None = None,
        category: str | None = None,
        take: str | None = None,
    ) -> list[str]:
        """Ids of the clips that are all of what is asked for, sorted; None asks for nothing."""
        return self.ids_at(self.select_numbers(split, evaluation_set, category, take))

    def ids_at(self, numbers: Int64[np.ndarray, " n"]) -> list[str]:
        """Ids of the clips at these places of the order of ids."""
        if len(numbers) == len(self.clip_ids) and (np.diff(numbers) == 1).all():
            return self.clip_ids
        return [self.clip_ids[number] for number in numbers.tolist()]

    def select_numbers(
        self,
        split: str | None = None,
        evaluation_set: str | None = None,
        category: str | None = None,
        take: str | None = None,
    ) -> Int64[np.ndarray, " n"]:
        """The places of `select`'s clips in the order of ids."""
        asked = {"split": split, "category": category, "take_name": take}
        chosen = np.ones(len(self.clip_ids), dtype=bool)
        for column, value in asked.items():
            if value is not None:
                chosen &= pc.equal(self._column(column), value).to_numpy()
        if evaluation_set is not None:
            sets = self._column("sets").combine_chunks()
            members = pc.equal(pc.list_flatten(sets), evaluation_set).to_numpy(zero_copy_only=False)
            inside = np.zeros(len(chosen), dtype=bool)
            inside[pc.list_parent_indices(sets).to_numpy()[members]] = True
            chosen &= inside
        return np.flatnonzero(chosen)

    def read(
        self,
        array: str,
        clip_ids: Sequence[str],
        *,
        first_frame: bool = False,
        memory: BatchMemory | None = None,
    ) -> np.ndarray:
        """The clips' rows of one array, stacked "b ..."; only frame 0 with `first_frame`.

        They lie in `memory`, if that is given. Rays that were not stored are made here, and
        CAMERA_ARRAYS always. Raises StoreFault, naming array, shard and clips, if a row is missing
        or was altered.
        """
        if array in CAMERA_ARRAYS:
            self.check_makes(array)
            return np.stack([self.make(array, self.row(clip_id)) for clip_id in clip_ids])
        reader = self.reader(array)
        if first_frame and not reader.spec.frames_apart:
            raise self._fault(
                f"{array} has no first frame that can be read alone.",
                expected=f"one of {[name for name, spec in ARRAYS.items() if spec.frames_apart]}",
                got=f"{array} ({reader.spec.axes})",
            )
        rows = self.row_numbers(array, clip_ids)
        if ABSENT_ROW in rows:
            return self._read_or_derive(reader, clip_ids, rows, memory)
        try:
            return reader.read(rows, first_frame=first_frame, memory=memory)
        except RowDamage as damage:
            raise damaged_rows(reader, damage, clip_ids, rows) from damage

    def reader(self, array: str) -> ArrayReader:
        """Reader of one array by row numbers. Raises StoreFault if there is no such array."""
        if array in self._readers:
            return self._readers[array]
        raise self._fault(
            "The store has no such array.", expected=f"one of {list(self._readers)}", got=array
        )

    def row_numbers(self, array: str, clip_ids: Sequence[str]) -> list[int]:
        """Where the clips lie in the array; -1 if their rows are made when they are read.

        Raises StoreFault if the store has no row of one, and cannot make it.
        """
        return self.rows_at(array, self.numbers(clip_ids)).tolist()

    def numbers(self, clip_ids: Sequence[str]) -> Int64[np.ndarray, " n"]:
        """The clips' places in the order of ids. Raises StoreFault if one is not there."""
        try:
            return np.fromiter(map(self._number.__getitem__, clip_ids), np.int64, len(clip_ids))
        except KeyError as unknown:
            raise self._fault(
                "This version of the store does not have the clip.",
                expected=f"one of its {len(self.clip_ids)} clips",
                got=str(unknown.args[0]),
            ) from None

    def rows_at(self, array: str, numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """`row_numbers` of the clips at these places."""
        self.reader(array)
        rows = self._row_numbers[array][numbers]
        absent = rows == ABSENT_ROW
        if absent.any():
            self._check_derived(array, numbers[absent].tolist())
        return rows

    def make(self, array: str, clip: ClipRow) -> np.ndarray:
        """The clip's row of an array that can be made out of its cameras: as stored, to the bit."""
        return self.derive[array](self.recipe.clips, clip)

    def check_makes(self, array: str) -> None:
        """Raises StoreFault unless the store was opened with a function that makes the array."""
        if array not in self.derive:
            raise self._fault(
                f"{array} is made when it is read, but nothing here makes it.",
                expected="open_store(..., derive=CLIP_CAMERAS), which does",
                got=f"no function for {array}",
                fix="Take CLIP_CAMERAS from exo2ego.geometry.clip_rays.",
            )

    def view_counts(self, clip_ids: Sequence[str]) -> list[int]:
        """How many exo views each clip has; those that it lacks come last."""
        recipe = self.recipe.clips
        if recipe.min_views == recipe.views:
            return [recipe.views] * len(clip_ids)
        return [self._view_counts[number] for number in self.numbers(clip_ids).tolist()]

    def derived(
        self,
        name: str,
        digest: str | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Derived:
        """Arrays that a model made out of this store; by a digest's beginning, or what they say
        of their provenance, if there are several."""
        return open_derived(self, name, digest, provenance)

    def source_digests(self, clip_ids: Sequence[str]) -> list[str]:
        """For each clip, blake3 of its latents' and rays' digests: what a model can see of it."""
        numbers = self.numbers(clip_ids).tolist()
        joined = ("".join(column[k] for column in self._source_columns) for k in numbers)
        return [blake3.blake3(text.encode()).hexdigest() for text in joined]

    def info(self) -> dict[str, Any]:
        """Hash, counts, size, recipe, record of the version, and derived arrays, as plain JSON."""
        derived = {a: self._derived_count(a) for a in self._row_numbers}
        return {
            "path": str(self.path),
            "container": self.container,
            "hash": self.hash,
            "clips": len(self.clip_ids),
            "takes": len(self._column("take_name").unique()),
            "splits": dict(Counter(self._column("split").to_pylist())),
            "categories": dict(Counter(self._column("category").to_pylist())),
            "arrays": {a: int((rows >= 0).sum()) for a, rows in self._row_numbers.items()},
            "made_when_read": {name: count for name, count in derived.items() if count},
            "clips_per_shard": self.clips_per_shard,
            "bytes": bytes_below(self.path),
            "recipe": self.recipe.model_dump(mode="json"),
            "version": self.version.record.model_dump(mode="json"),
            "derived": sorted(
                path.parent.name for path in self.path.glob("derived/*/derived.json")
            ),
        }

    @cached_property
    def _source_columns(self) -> list[list[str]]:
        names = [name for name, spec in ARRAYS.items() if spec.every_clip]
        return [self._column(f"digest_{name}").to_pylist() for name in names]

    @cached_property
    def _view_counts(self) -> list[int]:
        exos = self.version.manifest["exos"].to_pylist()
        return [sum(exo is not None for exo in of_clip) for of_clip in exos]

    def _open_readers(self, arrays: Sequence[str], *, check: bool) -> dict[str, ArrayReader]:
        """A reader for each of the arrays: what differs from container to container."""
        return open_readers(
            self.path / "arrays",
            {name: ARRAYS[name] for name in arrays},
            self.recipe.clips.shape,
            self.clips_per_shard,
            check=check,
            witnesses=self.witnesses,
        )

    def witnesses(self, array: str, shard: int) -> list[tuple[int, str]]:
        """The first and the last row of the shard that this version names, and their digests."""
        rows, order = self._row_numbers[array], self._by_row(array)
        first, last = np.searchsorted(
            rows, [shard * self.clips_per_shard, (shard + 1) * self.clips_per_shard], sorter=order
        )
        clips = dict.fromkeys(order[[first, last - 1]].tolist() if first < last else [])
        digests = self._column(f"digest_{array}")
        return [(int(rows[clip]), digests[clip].as_py()) for clip in clips]

    def _by_row(self, array: str) -> Int64[np.ndarray, " n"]:
        """The clips' places in the order of their rows in the array."""
        if array not in self._orders:
            self._orders[array] = np.argsort(self._row_numbers[array], kind="stable")
        return self._orders[array]

    def _read_or_derive(
        self,
        reader: ArrayReader,
        clip_ids: Sequence[str],
        rows: Sequence[int],
        memory: BatchMemory | None,
    ) -> np.ndarray:
        """Rows of which some are made from the clips' cameras: each by itself."""
        layout, name = reader.layout, reader.spec.name
        place = (memory or self._derived_memory).array
        out = place((len(rows), *layout.row_shape), np.dtype(layout.dtype))
        for clip_id, row, target in zip(clip_ids, rows, out, strict=True):
            if row == ABSENT_ROW:
                target[...] = self.make(name, self.row(clip_id))
            else:
                target[...] = self.read(name, [clip_id])[0]
        return out

    def _check_derived(self, array: str, numbers: Sequence[int]) -> None:
        """Raises StoreFault unless these clips' rows, which were not stored, can be made."""
        digests = self._column(f"digest_{array}").take(pa.array(numbers, pa.int64())).to_pylist()
        unknown = [self.clip_ids[n] for n, d in zip(numbers, digests, strict=True) if not d]
        if not unknown and array in self.derive:
            return
        where = f"{self.path}@{self.hash[:12]}"
        if not unknown:
            raise StoreFault(
                f"This store is factored: it keeps cameras in place of {array}.",
                where=where,
                expected=f"open_store(..., derive=CLIP_CAMERAS), which makes {array} at each read",
                got=f"no function for {array}",
                fix="Take CLIP_CAMERAS from exo2ego.geometry.clip_rays, or encode --rays stored.",
            )
        unfilmed = ARRAYS[array].of_ego_video and not self.row(unknown[0]).ego.video
        raise StoreFault(
            f"The store does not keep {array} for these clips.",
            where=where,
            expected=f"{array} of all clips that are asked for",
            got=f"none for {name_some(unknown)}" + ": no ego video" * unfilmed,
            fix="Leave these clips out: they are for sampling alone, not for training or scores."
            if unfilmed
            else "Keep it when encoding: `exo2ego encode-latents ... --ego-frames SPLIT`.",
        )

    def _derived_count(self, array: str) -> int:
        has_digest = pc.not_equal(self._column(f"digest_{array}"), "").to_numpy()
        return int((has_digest & (self._row_numbers[array] == ABSENT_ROW)).sum())

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.version.table[name]

    def _fault(
        self, what: str, *, expected: str, got: str, fix: str = "`exo2ego store info` shows all."
    ) -> StoreFault:
        where = f"{self.path}@{self.hash[:12]}"
        return StoreFault(what, where=where, expected=expected, got=got, fix=fix)
