"""Store to batches of tensors: seeded, resumable, the same on any number of processes.

The order is one endless row of epochs, each a permutation of the chosen clips; global batch k is
the k-th piece of that row. So every epoch has every clip exactly once, no batch is short, and
any step can be had at once: nothing is replayed to resume.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import blake3
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, Shaped
from torch import Tensor

from stores.batch_memory import KEPT, BatchMemory
from stores.damage import name_some
from stores.derived import Derived
from stores.errors import StoreFault
from stores.reading import Store
from stores.schema import ARRAYS, CAMERA_ARRAYS, DERIVED, ArraySpec
from stores.views import ViewChoice, choose_views, shown_views, view_words

FIRST = "[0]"
"""Ending of a read that wants frame 0 only."""
ALL_VIEWS = ViewChoice()
"""Every view of a clip, in the order in which it is stored."""
_EPOCHS_KEPT = 2  # a batch touches two at most


@dataclass(frozen=True)
class ClipBatch:
    """Some clips and, by the name of each read, their tensors."""

    clip_ids: list[str]
    arrays: dict[str, Tensor]
    views: list[tuple[int, ...]]
    """For each clip, the numbers of the stored views that are shown; -1 for one left out."""

    def __getitem__(self, read: str) -> Tensor:
        return self.arrays[read]


class ClipStream:
    """Batches of clips without end; a pure function of (store hash, seed, step).

    A read is an array's name; with "[0]" its frame 0 alone; "group/array" of derived arrays.
    Latents come as the model takes them: "b v c t h w" and "b c t h w", in the stored float16.
    `threads` batches are read ahead, each by a thread of its own, on demand into pinned memory. A
    batch's memory is used again once nobody holds its tensors: hold them until copies to a GPU
    that you did not wait for are over.
    """

    def __init__(
        self,
        store: Store,
        reads: Sequence[str],
        *,
        batch_size: int,
        seed: int,
        split: str | None = "train",
        category: str | None = None,
        take: str | None = None,
        rank: int = 0,
        world_size: int = 1,
        clip_ids: Sequence[str] | None = None,
        derived: dict[str, str] | None = None,
        views: ViewChoice = ALL_VIEWS,
        threads: int = 1,
        pin_memory: bool = False,
    ):
        if batch_size < 1 or not 0 <= rank < world_size or threads < 1:
            raise ValueError(f"batch {batch_size}, rank {rank} of {world_size}, threads {threads}")
        asked = {"split": split, "category": category, "take": take}
        if clip_ids is None:
            numbers = store.select_numbers(**asked)
        else:
            numbers = store.numbers(sorted(set(clip_ids)))
        if not len(numbers):
            raise _no_clips(store, asked)
        chosen = store.ids_at(numbers)
        self.store, self.seed, self.clip_ids, self.views = store, seed, chosen, views
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self._check_views()
        self._reads = {read: _open_read(store, read, numbers, derived or {}) for read in reads}
        self._epoch_order = lru_cache(_EPOCHS_KEPT)(self._draw_epoch)
        self._step, self._digest = 0, ""
        self._ahead: deque[tuple[int, Future[ClipBatch]]] = deque()
        self._threads, self._pool = threads, ThreadPoolExecutor(threads, "clip-stream")
        kept = 2 * threads + KEPT - 1  # those on their way or ready, one in use, one to spare
        self._memory = BatchMemory(kept=kept, allocate=_pinned if pin_memory else None)

    @property
    def global_batch(self) -> int:
        """Clips a step, over all processes."""
        return self.batch_size * self.world_size

    @property
    def order_digest(self) -> str:
        """Rolling digest of all clip ids that were given out, by all processes, in order."""
        return self._digest

    def order_digest_after(self, steps: int) -> str:
        """The order digest of a stream that gave out its first `steps` batches; nothing is read."""
        digest = ""
        for step in range(steps):
            digest = _rolled(digest, self.ids_at(step))
        return digest

    def ids_at(self, step: int) -> list[str]:
        """Ids of the whole global batch of a step: all processes', in the order of ranks."""
        count, first = len(self.clip_ids), step * self.global_batch
        places = [divmod(k, count) for k in range(first, first + self.global_batch)]
        return [self.clip_ids[self._epoch_order(epoch)[k]] for epoch, k in places]

    def batch_at(self, step: int) -> ClipBatch:
        """This process's part of the batch of a step, whatever was asked for before."""
        first = self.rank * self.batch_size
        return self._batch(self.ids_at(step)[first : first + self.batch_size], step)

    def batch_of(self, clip_ids: list[str]) -> ClipBatch:
        """The batch of just these clips, with nothing random about their views."""
        return self._batch(clip_ids, None)

    def __iter__(self) -> Iterator[ClipBatch]:
        return self

    def __next__(self) -> ClipBatch:
        step = self._step
        if self._ahead and self._ahead[0][0] != step:
            self._ahead.clear()
        if not self._ahead:
            self._read_ahead(step)
        batch = self._ahead.popleft()[1].result()
        self._digest = _rolled(self._digest, self.ids_at(step))
        self._step = step + 1
        self._read_ahead(step + 1)
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
        self._step, self._digest = state["step"], state["order_digest"]

    def close(self) -> None:
        """Stops reading ahead."""
        self._pool.shutdown(cancel_futures=True)

    def _read_ahead(self, step: int) -> None:
        first = self._ahead[-1][0] + 1 if self._ahead else step
        # twice as many as threads: none waits until its last batch has been taken
        for later in range(first, step + 2 * self._threads):
            self._ahead.append((later, self._pool.submit(self.batch_at, later)))

    def _batch(self, clip_ids: list[str], step: int | None) -> ClipBatch:
        views = self._shown_views(clip_ids, step)
        arrays = {name: read(clip_ids, views, self._memory) for name, read in self._reads.items()}
        return ClipBatch(clip_ids, arrays, views)

    def _shown_views(self, clip_ids: list[str], step: int | None) -> list[tuple[int, ...]]:
        count, words = self.store.recipe.clips.views, None
        shown = []
        for clip_id, present in zip(clip_ids, self.store.view_counts(clip_ids), strict=True):
            if step is not None and self.views.is_random:
                words = view_words(self.store.hash, self.seed, step, clip_id, count)
            shown.append(shown_views(self.views, views=count, present=present, words=words))
        return shown

    def _check_views(self) -> None:
        """Raises StoreFault if a clip would be left without any of its views."""
        if self.views.keep is None:
            return
        counts = self.store.view_counts(self.clip_ids)
        total, least = self.store.recipe.clips.views, min(self.views.keep)
        bare = [clip_id for clip_id, n in zip(self.clip_ids, counts, strict=True) if n <= least]
        if bare or max(self.views.keep) >= total or least < 0:
            raise StoreFault(
                "The stream cannot show these views.",
                where=f"{self.store.path}@{self.store.hash[:12]}",
                expected=f"views from 0 to {total - 1}, one at least that each clip has",
                got=f"{self.views.keep}" + f"; {name_some(bare)} has none of them" * bool(bare),
                fix="Keep other views, or leave these clips out.",
            )

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
        stored, taken = spec.stream_axes(first_frame=first_frame)
        self._view_axis = 1 + stored.index("v") if "v" in stored else None
        words = [
            " ".join(["b", *("rays" if axis == "6" else axis for axis in order)])
            for order in (stored, taken)
        ]
        self._pattern = " -> ".join(words).replace(" 3", " rgb")

    def __call__(
        self, clip_ids: list[str], views: list[tuple[int, ...]], memory: BatchMemory
    ) -> Shaped[Tensor, "b ..."]:
        """The rows of these clips with these views, as the model takes them."""
        rows = self._source.read(self._spec.name, clip_ids, first_frame=self._first, memory=memory)
        if self._view_axis is not None:
            rows = choose_views(rows, self._view_axis, views)
        return rearrange(torch.from_numpy(rows), self._pattern)


def _rolled(digest: str, clip_ids: list[str]) -> str:
    """The digest of an order that went on with these clips."""
    return blake3.blake3("\n".join([digest, *clip_ids]).encode()).hexdigest()


def _pinned(size: int) -> np.ndarray:
    """Memory that a GPU copies from by itself, while the host goes on."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()


def _open_read(
    store: Store, read: str, numbers: Int64[np.ndarray, " n"], derived: dict[str, str]
) -> _Read:
    """The read, once it is sure that every clip (by its place in the store) has it."""
    if (found := find_read(read)) is None:
        raise _unknown_read(store, read)
    group, spec, first_frame = found
    if group:
        source = store.derived(group, derived.get(group))
        source.check_fresh(store.ids_at(numbers))
        return _Read(source, spec, first_frame)
    if spec.name in CAMERA_ARRAYS:
        store.check_makes(spec.name)
    else:
        store.rows_at(spec.name, numbers)
    return _Read(store, spec, first_frame)


def find_read(read: str) -> tuple[str, ArraySpec, bool] | None:
    """What a read names: group of derived arrays or "", array, and whether frame 0 alone.

    None if there is no such array, or its frame 0 cannot be read alone."""
    name, first_frame = read.removesuffix(FIRST), read.endswith(FIRST)
    group, _, array = name.rpartition("/")
    spec = (DERIVED.get(group, {}) if group else ARRAYS | CAMERA_ARRAYS).get(array)
    if spec is None or (first_frame and not spec.frames_apart):
        return None
    return group, spec, first_frame


def _unknown_read(store: Store, read: str) -> StoreFault:
    specs = {**ARRAYS, **{f"{g}/{a}": spec for g, of in DERIVED.items() for a, spec in of.items()}}
    whole = list(specs | CAMERA_ARRAYS)
    first = [name + FIRST for name, spec in specs.items() if spec.frames_apart]
    return StoreFault(
        "The stream cannot read this.",
        where=store.path,
        expected=f"one of {', '.join(whole + first)}",
        got=read,
        fix="Name an array of stores/schema.py; only some have a frame 0 to be read alone.",
    )


def _no_clips(store: Store, asked: dict[str, str | None]) -> StoreFault:
    return StoreFault(
        "There are no clips to stream.",
        where=f"{store.path}@{store.hash[:12]}",
        expected="clips of " + ", ".join(f"{key} {v!r}" for key, v in asked.items() if v),
        got=f"none; splits: {sorted(store.info()['splits'])}",
        fix="Ask for others, or encode more takes.",
    )
