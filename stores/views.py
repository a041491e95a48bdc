"""Which exo views of a clip a batch shows, and in which order: chosen when clips are read."""

from collections.abc import Sequence
from dataclasses import dataclass

import blake3
import numpy as np
from jaxtyping import Float64, Shaped

_WORD = 2.0**64


@dataclass(frozen=True)
class ViewChoice:
    """Exo views to show. The ego rays stay relative to the clip's recorded reference view.

    A view that is left out reads as a view that the clip lacks: NaN, or black in frames.
    """

    keep: tuple[int, ...] | None = None
    """Numbers of the stored views, in the order to show them; None: all of them, as stored."""
    permute: bool = False
    """Shows them in an order of each clip's and step's own."""
    dropout: float = 0.0
    """Chance of each view to be left out; one that the clip has always stays."""

    def __post_init__(self) -> None:
        if self.keep is not None and len(set(self.keep)) != len(self.keep):
            raise ValueError(f"keep names a view twice: {self.keep}")
        if self.keep == () or not 0 <= self.dropout < 1:
            raise ValueError(f"keep {self.keep}, dropout {self.dropout}: no view would stay")

    @property
    def is_random(self) -> bool:
        """True if it differs from step to step."""
        return self.permute or self.dropout > 0


def shown_views(
    choice: ViewChoice, *, views: int, present: int, words: Float64[np.ndarray, "2 v"] | None
) -> tuple[int, ...]:
    """Numbers of the stored views to show, in order; -1 where one was dropped.

    The clip has the first `present` of its `views` views. `words`, uniform in [0, 1), decide what
    is random; without them nothing is.
    """
    kept = tuple(range(views)) if choice.keep is None else choice.keep
    if words is None or not choice.is_random:
        return kept
    order, chance = words
    if choice.permute:
        kept = tuple(sorted(kept, key=lambda view: order[view]))
    seen = [view for view in kept if view < present]
    stays = {view for view in kept if chance[view] >= choice.dropout}
    if seen and not stays & set(seen):
        stays.add(max(seen, key=lambda view: chance[view]))
    return tuple(view if view in stays else -1 for view in kept)


def view_words(
    store_hash: str, seed: int, step: int, clip_id: str, views: int
) -> Float64[np.ndarray, "2 v"]:
    """Two uniform numbers a view: a function of these alone, never of rank, batch or history."""
    text = f"exo2ego views 1|{store_hash}|{seed}|{step}|{clip_id}"
    key = int.from_bytes(blake3.blake3(text.encode()).digest(16), "little")
    # raw Philox words: numpy promises these for ever, unlike what it makes of them
    return (np.random.Philox(key=key).random_raw(2 * views) / _WORD).reshape(2, views)


def choose_views(
    rows: Shaped[np.ndarray, "b ..."], axis: int, chosen: Sequence[tuple[int, ...]]
) -> Shaped[np.ndarray, "b ..."]:
    """The rows with the chosen views along `axis` (the batch counted); -1 is a view left out."""
    if all(views == tuple(range(rows.shape[axis])) for views in chosen):
        return rows
    left_out = np.nan if rows.dtype.kind == "f" else 0
    shape = list(rows.shape)
    shape[axis] = len(chosen[0])
    out = np.empty(shape, rows.dtype)
    for row, target, views in zip(rows, out, chosen, strict=True):
        np.take(row, views, axis=axis - 1, out=target, mode="wrap")
        dropped = [place for place, view in enumerate(views) if view < 0]
        np.moveaxis(target, axis - 1, 0)[dropped] = left_out
    return out
