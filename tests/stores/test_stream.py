"""Claims about the order of clips: seeded, resumable, whole epochs, any number of processes."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stores.derived import write_derived
from stores.errors import StoreFault
from stores.index import ClipRecipe, ClipRow
from stores.reading import Store
from stores.stream import ClipStream
from stores.version import StoreRecipe, VaeRecipe
from stores.zarr_store import open_store

READS = ("exo_latents", "ego_latents[0]")


@pytest.fixture
def store(store_path: Path) -> Store:
    return open_store(store_path)


def stream(store: Store, **changed) -> ClipStream:
    given_or = {"batch_size": 2, "seed": 3, "split": None} | changed
    return ClipStream(store, given_or.pop("reads", READS), **given_or)


def test_arrays_come_as_the_model_takes_them(store: Store, arrays: dict) -> None:
    reads = ("exo_latents", "exo_latents[0]", "ego_latents", "ego_latents[0]", "align_rays")
    batch = stream(store, reads=(*reads, "ego_rays")).batch_at(5)
    for place, clip_id in enumerate(batch.clip_ids):
        rows = arrays[clip_id]
        expected = {
            "exo_latents": rows["exo_latents"].transpose(1, 2, 0, 3, 4),
            "exo_latents[0]": rows["exo_latents"][0],
            "ego_latents": rows["ego_latents"].transpose(1, 0, 2, 3),
            "ego_latents[0]": rows["ego_latents"][0],
            "align_rays": rows["align_rays"],
            "ego_rays": rows["ego_rays"],
        }
        for read, numbers in expected.items():
            assert batch[read].dtype == torch.float16
            assert (batch[read][place].numpy() == numbers).all(), read


def test_frames_come_as_they_are_stored(store: Store, arrays: dict) -> None:
    reads = ("ego_frames", "exo_frames")
    batch = stream(store, reads=reads, split="test").batch_at(0)
    for read in reads:
        expected = np.stack([arrays[clip_id][read] for clip_id in batch.clip_ids])
        assert (batch[read].numpy() == expected).all()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 10])
def test_every_epoch_has_every_clip_once_and_no_batch_is_short(
    store: Store, batch_size: int
) -> None:
    some, count = stream(store, batch_size=batch_size), len(store.clip_ids)
    ids = [clip_id for step in range(30) for clip_id in some.ids_at(step)]
    assert len(ids) == 30 * batch_size
    for epoch in range(len(ids) // count):
        assert sorted(ids[epoch * count : (epoch + 1) * count]) == store.clip_ids


def test_epochs_and_seeds_have_orders_of_their_own(store: Store) -> None:
    epochs = [tuple(stream(store, batch_size=7).ids_at(step)) for step in range(8)]
    seeds = [tuple(stream(store, batch_size=7, seed=seed).ids_at(0)) for seed in range(8)]
    assert len(set(epochs)) > 6 and len(set(seeds)) > 6


def test_another_store_has_another_order(store: Store, store_path: Path) -> None:
    before = [stream(store).ids_at(step) for step in range(6)]
    other = open_store(store_path)
    other.hash = "0" * 64
    assert [stream(other).ids_at(step) for step in range(6)] != before


def test_the_order_is_that_of_every_earlier_release() -> None:
    order = stream(_OrderOnly(), batch_size=11, reads=()).ids_at(1)
    assert " ".join(order) == "c10 c00 c01 c05 c06 c09 c07 c04 c02 c03 c08"


@given(step=st.integers(0, 10**9), world_size=st.sampled_from([1, 2, 3, 6]))
def test_global_batches_are_the_same_on_any_number_of_processes(step: int, world_size: int) -> None:
    store = _OrderOnly()
    whole = stream(store, batch_size=6, reads=()).ids_at(step)
    parts = [
        stream(
            store, batch_size=6 // world_size, rank=rank, world_size=world_size, reads=()
        ).batch_at(step)
        for rank in range(world_size)
    ]
    assert [clip_id for part in parts for clip_id in part.clip_ids] == whole


class _OrderOnly(Store):
    """A store of which nothing is read: the order needs its hash and its clip ids only."""

    def __init__(self) -> None:
        self.path, self.hash, self.clip_ids = Path("s"), "ab" * 32, [f"c{k:02d}" for k in range(11)]
        vae = VaeRecipe(class_name="Vae", weights_digest="aa", config_digest="bb")
        self.recipe = StoreRecipe(clips=ClipRecipe(), vae=vae)

    def select_numbers(
        self,
        split: str | None = None,
        evaluation_set: str | None = None,
        category: str | None = None,
        take: str | None = None,
    ) -> np.ndarray:
        return np.arange(len(self.clip_ids))


def test_iterating_gives_the_batches_of_the_steps(store: Store) -> None:
    some = stream(store)
    for step, batch in enumerate(islice(some, 9)):
        again = stream(store).batch_at(step)
        assert batch.clip_ids == again.clip_ids
        assert all(torch.equal(batch[read], again[read]) for read in READS)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_that_read_ahead_change_no_batch(store: Store, threads: int) -> None:
    some, alone = stream(store, threads=threads), stream(store)
    held = list(islice(some, 12))
    for step, batch in enumerate(held):  # all held: no memory was given out twice
        again = alone.batch_at(step)
        assert batch.clip_ids == again.clip_ids
        assert all(torch.equal(batch[read], again[read]) for read in READS)


def test_a_stream_has_only_the_clips_that_are_asked_for(store: Store) -> None:
    assert stream(store, take="take_b", category="Cooking").clip_ids == store.select(take="take_b")
    assert stream(store, split="test").clip_ids == stream(store, take="take_b").clip_ids
    with pytest.raises(StoreFault, match="no clips") as fault:
        stream(store, take="take_b", split="train")
    assert fault.value.expected == "clips of split 'train', take 'take_b'"


@pytest.mark.gpu
def test_pinned_batches_are_pinned_and_the_same(store: Store) -> None:
    pinned, plain = next(stream(store, pin_memory=True)), next(stream(store))
    for read in READS:
        assert pinned[read].is_pinned() and not plain[read].is_pinned()
        assert torch.equal(pinned[read].cuda().cpu(), plain[read])


def test_a_stream_resumes_exactly_and_its_digest_tells_the_order(store: Store) -> None:
    whole, first, second = stream(store), stream(store), stream(store)
    ids = [batch.clip_ids for batch in islice(whole, 9)]
    assert [batch.clip_ids for batch in islice(first, 4)] == ids[:4]
    second.load_state_dict(first.state_dict())
    assert [batch.clip_ids for batch in islice(second, 5)] == ids[4:]
    assert second.order_digest == whole.order_digest != first.order_digest


def test_going_back_drops_what_was_read_ahead(store: Store) -> None:
    some = stream(store)
    start = some.state_dict()
    ids = [batch.clip_ids for batch in islice(some, 3)]
    some.load_state_dict(start)
    assert [batch.clip_ids for batch in islice(some, 3)] == ids


def test_every_process_has_the_same_digest(store: Store) -> None:
    ranks = [stream(store, batch_size=1, rank=rank, world_size=2) for rank in (0, 1)]
    for _ in range(4):
        parts = [next(rank).clip_ids for rank in ranks]
        assert parts[0] != parts[1]
    alone = stream(store)
    list(islice(alone, 4))
    assert alone.order_digest == ranks[0].order_digest == ranks[1].order_digest


@pytest.mark.parametrize(
    "changed", [{"seed": 4}, {"batch_size": 3}, {"split": "train"}], ids=["seed", "batch", "clips"]
)
def test_a_state_of_another_order_is_refused(store: Store, changed: dict) -> None:
    with pytest.raises(StoreFault, match="its order is another"):
        stream(store, **changed).load_state_dict(stream(store).state_dict())


@pytest.mark.parametrize(
    "read", ["latents", "align_rays[0]", "first_frames/nothing", "dreams/condition", ""]
)
def test_reads_that_the_schema_lacks_are_refused_with_those_it_has(store: Store, read: str) -> None:
    with pytest.raises(StoreFault, match="cannot read this") as fault:
        stream(store, reads=(read,))
    assert "exo_latents[0]" in fault.value.expected
    assert "first_frames/condition" in fault.value.expected


def test_arrays_that_some_clips_lack_are_refused_before_the_first_batch(store: Store) -> None:
    with pytest.raises(StoreFault, match="does not keep ego_frames"):
        stream(store, reads=("ego_frames",))


def test_no_clips_are_told_with_the_splits_there_are(store: Store) -> None:
    with pytest.raises(StoreFault, match="no clips to stream") as fault:
        stream(store, split="val")
    assert "'test', 'train'" in fault.value.got


def test_derived_arrays_stream_beside_the_stores_own(store: Store, rows: list[ClipRow]) -> None:
    shape = store.recipe.clips.shape.latent()
    latent = np.ones((shape.channels, *shape.hw), np.float16)
    condition = np.stack([latent * t for t in range(shape.frames)])
    made = [
        (row.clip_id, {"first_latent": latent * k, "condition": condition * k})
        for k, row in enumerate(rows)
    ]
    reads = ("first_frames/condition", "first_frames/first_latent", "ego_latents")
    with pytest.raises(StoreFault, match="no first_frames"):
        stream(store, reads=reads)
    write_derived(store, "first_frames", "ab" * 8, made, {})
    batch = stream(store, reads=reads).batch_at(0)
    assert batch[reads[0]].shape == batch["ego_latents"].shape
    numbers = {row.clip_id: k for k, row in enumerate(rows)}
    for place, clip_id in enumerate(batch.clip_ids):
        assert (batch[reads[0]][place, :, 1] == numbers[clip_id]).all()
        assert (batch[reads[1]][place] == numbers[clip_id]).all()
