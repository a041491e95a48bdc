"""Store to batches of tensors: seeded, resumable, the same on any number of processes.

The order is one endless row of epochs, each a permutation of the chosen clips; global batch k is
the k-th piece of that row. So every epoch has every clip exactly once, no batch is short, and
any step can be had at once: nothing is replayed to resume.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import blake3
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor

from stores.derived import Derived
from stores.errors import StoreFault
from stores.reading import Store
from stores.schema import ARRAYS, DERIVED, ArraySpec

FIRST = "[0]"
"""Ending of a read that wants frame 0 only."""
_EPOCHS_KEPT = 2  # a batch touches two at most


@dataclass(frozen=True)
class ClipBatch:
    """Some clips and, by the name of each read, their tensors."""

    clip_ids: list[str]
    arrays: dict[str, Tensor]

    def __getitem__(self, read: str) -> Tensor:
        return self.arrays[read]


class ClipStream:
    """Batches of clips without end; a pure function of (store hash, seed, step).

    A read is an array's name; with "[0]" its frame 0 alone; "group/array" of derived arrays.
    Latents come as the model takes them: "b v c t h w" and "b c t h w", in the stored float16.
    """

    def __init__(
        self,
        store: Store,
        reads: tuple[str, ...],
        *,
        batch_size: int,
        seed: int,
        split: str | None = "train",
        rank: int = 0,
        world_size: int = 1,
        clip_ids: Sequence[str] | None = None,
        derived: dict[str, str] | None = None,
    ):
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"batch size {batch_size}, rank {rank} of {world_size}")
        chosen = store.select(split=split) if clip_ids is None else sorted(set(clip_ids))
        if not chosen:
            raise _no_clips(store, split)
        self.store, self.seed, self.clip_ids = store, seed, chosen
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self._reads = {read: _open_read(store, read, chosen, derived or {}) for read in reads}
        self._epoch_order = lru_cache(_EPOCHS_KEPT)(self._draw_epoch)
        self._step, self._digest = 0, ""
        self._ahead: tuple[int, Future[ClipBatch]] | None = None
        self._pool = ThreadPoolExecutor(1, "clip-stream")

    @property
    def global_batch(self) -> int:
        """Clips a step, over all processes."""
        return self.batch_size * self.world_size

    @property
    def order_digest(self) -> str:
        """Rolling digest of all clip ids that were given out, by all processes, in order."""
        return self._digest

    def ids_at(self, step: int) -> list[str]:
        """Ids of the whole global batch of a step: all processes', in the order of ranks."""
        count, first = len(self.clip_ids), step * self.global_batch
        places = [divmod(k, count) for k in range(first, first + self.global_batch)]
        return [self.clip_ids[self._epoch_order(epoch)[k]] for epoch, k in places]

    def batch_at(self, step: int) -> ClipBatch:
        """This process's part of the batch of a step, whatever was asked for before."""
        first = self.rank * self.batch_size
        return self.batch_of(self.ids_at(step)[first : first + self.batch_size])

    def batch_of(self, clip_ids: list[str]) -> ClipBatch:
        """The batch of just these clips."""
        begun = {name: read.begin(clip_ids) for name, read in self._reads.items()}
        return ClipBatch(clip_ids, {name: finish() for name, finish in begun.items()})

    def __iter__(self) -> Iterator[ClipBatch]:
        return self

    def __next__(self) -> ClipBatch:
        step, ahead = self._step, self._ahead
        mine = ahead is not None and ahead[0] == step
        batch = ahead[1].result() if ahead and mine else self.batch_at(step)
        ids = "\n".join([self._digest, *self.ids_at(step)])
        self._digest = blake3.blake3(ids.encode()).hexdigest()
        self._step = step + 1
        self._ahead = (step + 1, self._pool.submit(self.batch_at, step + 1))
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: enough to go on exactly, on any number of processes."""
        return {
            "step": self._step,
            "seed": self.seed,
            "hash": self.store.hash,
            "global_batch": self.global_batch,
            "clips": len(self.clip_ids),
            "order_digest": self._digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to where `state` was taken. Raises StoreFault if the order would be another."""
        mine = self.state_dict()
        for key in ("hash", "seed", "global_batch", "clips"):
            if state[key] != mine[key]:
                raise StoreFault(
                    "This stream cannot go on from that state: its order is another.",
                    where=f"{self.store.path}, {key}",
                    expected=state[key],
                    got=mine[key],
                    fix="Open the store as STORE@HASH; keep seed, clips and the global batch.",
                )
        self._step, self._digest, self._ahead = state["step"], state["order_digest"], None

    def close(self) -> None:
        """Stops reading ahead."""
        self._pool.shutdown(cancel_futures=True)

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        # raw Philox words: numpy promises these for ever, unlike its `permutation`
        text = f"exo2ego order 1|{self.store.hash}|{self.seed}|{epoch}"
        key = int.from_bytes(blake3.blake3(text.encode()).digest(16), "little")
        words = np.random.Philox(key=key).random_raw(len(self.clip_ids))
        return np.argsort(words, kind="stable")


class _Read:
    """One array of a stream: reads it and turns it to the model's order of axes."""

    def __init__(self, source: Store | Derived, spec: ArraySpec, first_frame: bool):
        self._source, self._spec, self._first = source, spec, first_frame
        axes = spec.axes.split()[1:] if first_frame else spec.axes.split()
        model = [axis for axis in axes if axis != "t"]
        if "t" in axes:
            model.insert(model.index("c") + 1, "t")
        words = [
            " ".join(["b", *("rays" if a == "6" else a for a in order)]) for order in (axes, model)
        ]
        self._pattern = " -> ".join(words).replace(" 3", " rgb")

    def begin(self, clip_ids: list[str]) -> Callable[[], Shaped[Tensor, "b ..."]]:
        """Begins to read; a call of what comes out gives the rows, as the model takes them."""
        finish = self._source.begin(self._spec.name, clip_ids, first_frame=self._first)
        return lambda: rearrange(torch.from_numpy(finish()), self._pattern)


def _open_read(store: Store, read: str, clip_ids: list[str], derived: dict[str, str]) -> _Read:
    """The read, once it is sure that every clip has it."""
    name, first_frame = read.removesuffix(FIRST), read.endswith(FIRST)
    group, _, array = name.rpartition("/")
    known = DERIVED.get(group, {}) if group else ARRAYS
    if array not in known or (first_frame and not known[array].frames_apart):
        raise _unknown_read(store, read)
    if not group:
        store.row_numbers(array, clip_ids)
        return _Read(store, known[array], first_frame)
    source = store.derived(group, derived.get(group))
    source.check_fresh(clip_ids)
    return _Read(source, known[array], first_frame)


def _unknown_read(store: Store, read: str) -> StoreFault:
    specs = {**ARRAYS, **{f"{g}/{a}": spec for g, of in DERIVED.items() for a, spec in of.items()}}
    whole, first = list(specs), [name + FIRST for name, spec in specs.items() if spec.frames_apart]
    return StoreFault(
        "The stream cannot read this.",
        where=store.path,
        expected=f"one of {', '.join(whole + first)}",
        got=read,
        fix="Name an array of stores/schema.py; only some have a frame 0 to be read alone.",
    )


def _no_clips(store: Store, split: str | None) -> StoreFault:
    return StoreFault(
        "There are no clips to stream.",
        where=f"{store.path}@{store.hash[:12]}",
        expected=f"clips of split {split!r}",
        got=f"none; splits: {sorted(set(row.split for row in store.rows))}",
        fix="Choose another split, or encode more takes.",
    )
