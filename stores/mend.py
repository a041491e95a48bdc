"""A damaged shard written again in its place: rows that were made anew, and those still whole."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from stores.arrays import RowDamage, open_readers, row_digest, shard_layout, shard_path
from stores.place import Place
from stores.schema import ARRAYS
from stores.settings import read_settings
from stores.shard import write_shard_file
from stores.version import ABSENT_ROW, list_versions, read_version


def named_rows(store: Place, array: str) -> dict[int, str]:
    """Digests of all rows of the array that any version names, by row number."""
    found: dict[int, str] = {}
    for name in list_versions(store):
        table = read_version(store, read_settings(store).recipe, name).table
        if f"row_{array}" in table.column_names:
            rows, digests = (table[f"{what}_{array}"].to_pylist() for what in ("row", "digest"))
            found |= dict(zip(rows, digests, strict=True))
    found.pop(ABSENT_ROW, None)
    return found


def rewrite_shard(
    store: Place,
    array: str,
    shard: int,
    made: Mapping[int, Callable[[], np.ndarray]],
    named: Mapping[int, str],
) -> set[int]:
    """Replaces the shard by one with the rows of `made`, and those of `named` that are whole.

    Both by row number; `named` has the digests that rows of any version ought to have. A reader
    sees the old shard or the new one. Returns the named rows that are in neither: lost.
    """
    settings, spec = read_settings(store), ARRAYS[array]
    shape, size = settings.recipe.clips.shape, settings.clips_per_shard
    reader = open_readers(store / "arrays", {array: spec}, shape, size)[array]
    layout, lost = shard_layout(spec, shape, size), set[int]()

    def whole(row: int) -> np.ndarray | None:
        try:
            numbers = reader.read([row])[0]
        except RowDamage:
            return None
        return numbers if row_digest(layout, numbers) == named[row] else None

    def rows() -> Iterator[tuple[int, np.ndarray]]:
        for row in range(shard * size, (shard + 1) * size):
            if row not in made and row not in named:
                continue
            numbers = made[row]() if row in made else whole(row)
            if numbers is None:
                lost.add(row)
            else:
                yield row - shard * size, numbers

    write_shard_file(shard_path(store / "arrays", spec, shard), layout, rows())
    return lost
