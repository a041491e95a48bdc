"""A damaged shard written again in its place: rows that were made anew, and those still whole."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from stores.arrays import RowDamage, open_readers, shard_layout, shard_path
from stores.place import Place
from stores.schema import ARRAYS
from stores.settings import read_settings
from stores.shard import write_shard_file


def rewrite_shard(
    store: Place, array: str, shard: int, made: Mapping[int, Callable[[], np.ndarray]]
) -> list[int]:
    """Replaces the shard by one with the rows of `made`, by row number, and all that still read.

    Rows of other versions are kept with the rest. A reader sees the old shard or the new one.
    Returns the row numbers of the new one; a row that is in neither is absent from then on.
    """
    settings, spec = read_settings(store), ARRAYS[array]
    shape, size = settings.recipe.clips.shape, settings.clips_per_shard
    reader = open_readers(store / "arrays", {array: spec}, shape, size)[array]
    kept: list[int] = []

    def rows() -> Iterator[tuple[int, np.ndarray]]:
        for row in range(shard * size, (shard + 1) * size):
            try:
                numbers = made[row]() if row in made else reader.read([row])[0]
            except RowDamage:
                continue
            kept.append(row)
            yield row - shard * size, numbers

    layout = shard_layout(spec, shape, size)
    write_shard_file(shard_path(store / "arrays", spec, shard), layout, rows())
    return kept
