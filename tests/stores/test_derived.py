"""Claims about arrays made out of a store: resumable, and never of other data than they say."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

from stores.derived import DerivedRow, finished_derived, write_derived
from stores.errors import StoreFault
from stores.index import ClipRow
from stores.reading import Store
from stores.zarr_store import open_store

NAME, DIGEST = "first_frames", "0123456789abcdef"


@pytest.fixture
def store(store_path: Path) -> Store:
    return open_store(store_path)


def made(store: Store, clip_ids: list[str]) -> Iterator[DerivedRow]:
    shape = store.recipe.clips.shape.latent()
    for clip_id in clip_ids:
        random = np.random.default_rng(list(clip_id.encode()))
        latent = random.normal(size=(shape.channels, *shape.hw)).astype(np.float16)
        yield clip_id, {"first_latent": latent, "condition": np.stack([latent] * shape.frames)}


def test_rows_come_back_in_the_order_asked_for(store: Store) -> None:
    write_derived(store, NAME, DIGEST, made(store, store.clip_ids), {"align": "run 7"})
    derived = store.derived(NAME)
    assert (derived.digest, derived.provenance) == (DIGEST, {"align": "run 7"})
    assert derived.clip_ids == store.clip_ids
    ids = store.clip_ids[::-2]
    expected = np.stack([arrays["condition"] for _, arrays in made(store, ids)])
    assert (derived.read("condition", ids) == expected).all()
    assert (derived.read("condition", ids, first_frame=True) == expected[:, 0]).all()


def test_zarr_python_opens_them(store: Store) -> None:
    path = write_derived(store, NAME, DIGEST, made(store, store.clip_ids), {})
    array = zarr.open_array(path / "first_latent", mode="r")
    (_, expected), *_ = made(store, store.clip_ids)
    assert (np.asarray(array[0]) == expected["first_latent"]).all()


def test_a_run_that_was_interrupted_keeps_its_whole_shards(store: Store) -> None:
    def interrupted() -> Iterator[DerivedRow]:
        yield from made(store, store.clip_ids[:5])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_derived(store, NAME, DIGEST, interrupted(), {})
    with pytest.raises(StoreFault, match="no first_frames"):
        store.derived(NAME)
    done = finished_derived(store, NAME, DIGEST)
    assert done == set(store.clip_ids[:3])
    left = [clip_id for clip_id in store.clip_ids if clip_id not in done]
    write_derived(store, NAME, DIGEST, made(store, left), {})
    expected = np.stack([arrays["condition"] for _, arrays in made(store, store.clip_ids)])
    assert (store.derived(NAME).read("condition", store.clip_ids) == expected).all()


def test_finished_rows_are_not_written_again(store: Store) -> None:
    path = write_derived(store, NAME, DIGEST, made(store, store.clip_ids), {})
    files = sorted(path.rglob("c/**/0"))
    write_derived(store, NAME, DIGEST, made(store, store.clip_ids), {})
    assert sorted(path.rglob("c/**/0")) == files


def test_rows_of_a_clip_whose_data_changed_are_refused_until_made_again(
    store: Store, rows: list[ClipRow], arrays: dict, add_clips: Callable
) -> None:
    write_derived(store, NAME, DIGEST, made(store, store.clip_ids), {})
    changed = rows[1].clip_id
    arrays[changed]["exo_latents"] += 1
    add_clips(store.path, rows[1:2], arrays)
    later = open_store(store.path)
    later.derived(NAME).read("condition", [rows[0].clip_id])
    with pytest.raises(StoreFault, match="other data") as fault:
        later.derived(NAME).read("condition", [rows[0].clip_id, changed])
    assert changed in str(fault.value) and rows[0].clip_id not in str(fault.value)
    assert finished_derived(later, NAME, DIGEST) == set(later.clip_ids) - {changed}
    write_derived(later, NAME, DIGEST, made(later, [changed]), {})
    later.derived(NAME).read("condition", later.clip_ids)


def test_which_of_several_must_be_said(store: Store) -> None:
    for digest in ("aaaa0000", "aabb1111"):
        write_derived(store, NAME, digest, made(store, store.clip_ids), {})
    with pytest.raises(StoreFault, match="Which first_frames"):
        store.derived(NAME)
    assert store.derived(NAME, "aabb").digest == "aabb1111"
    assert store.info()["derived"] == [f"{NAME}-aaaa0000", f"{NAME}-aabb1111"]


def test_clips_without_rows_and_unknown_names_are_told(store: Store) -> None:
    write_derived(store, NAME, DIGEST, made(store, store.clip_ids[:3]), {})
    with pytest.raises(StoreFault, match="without rows"):
        store.derived(NAME).read("condition", store.clip_ids)
    with pytest.raises(StoreFault, match="No such array"):
        store.derived(NAME).read("conditions", store.clip_ids[:1])
    with pytest.raises(StoreFault, match="not known"):
        write_derived(store, "dreams", DIGEST, iter([]), {})


def test_a_flipped_bit_names_clip_and_shard(store: Store) -> None:
    path = write_derived(store, NAME, DIGEST, made(store, store.clip_ids), {})
    file = path.joinpath("first_latent", "c", "0", "0", "0", "0")
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(StoreFault, match="checksum") as fault:
        store.derived(NAME).read("first_latent", store.clip_ids)
    assert store.clip_ids[0] in str(fault.value) and str(file) in str(fault.value)
