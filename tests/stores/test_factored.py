"""Claims about rays that a store knows by their digests alone and makes when they are read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from exo2ego.geometry.clip_rays import CLIP_RAYS
from stores.arrays import row_digest, shard_layout
from stores.errors import StoreFault
from stores.index import ClipRow
from stores.reading import Store
from stores.schema import ARRAYS
from stores.stream import ClipStream
from stores.tar_store import export_tar, import_tar
from stores.verify import verify_store
from stores.version import StoreRecipe, as_stored
from stores.zarr_store import commit, create_store, open_store, stored_clips, write_shard

RAYS = tuple(CLIP_RAYS)
Made = dict[str, dict[str, np.ndarray]]


@pytest.fixture
def made(rows: list[ClipRow], arrays: Made, recipe: StoreRecipe) -> Made:
    """The clips' arrays, with the rays of their cameras in place of random ones."""
    true = {r.clip_id: {n: make(recipe.clips, r) for n, make in CLIP_RAYS.items()} for r in rows}
    return {clip_id: arrays[clip_id] | true[clip_id] for clip_id in arrays}


@pytest.fixture
def factored(tmp_path: Path, rows: list[ClipRow], made: Made, recipe: StoreRecipe) -> Path:
    """A store of all clips without a row of rays."""
    path, new = tmp_path / "factored.store", []
    create_store(path, recipe, clips_per_shard=3)
    for shard, some in enumerate((rows[:3], rows[3:5], rows[5:])):
        names = [name for name in made[some[0].clip_id] if name not in RAYS]
        given = {name: [made[clip.clip_id][name] for clip in some] for name in names}
        finished = write_shard(path, shard, some, given)
        for clip in stored_clips(finished, {row.clip_id: row for row in some}, 3):
            digests = {name: _digest(recipe, name, made[clip.clip_id][name]) for name in RAYS}
            new.append(as_stored(clip, clip.rows, clip.digests | digests))
    commit(path, new, command="test", index_digest="cc")
    return path


def _digest(recipe: StoreRecipe, name: str, row: np.ndarray) -> str:
    return row_digest(shard_layout(ARRAYS[name], recipe.clips.shape, 3), row)


def opened(path: Path) -> Store:
    return open_store(path, derive=CLIP_RAYS)


def test_the_hash_is_that_of_the_store_with_stored_rays(
    tmp_path: Path, factored: Path, rows: list[ClipRow], made: Made, add_clips: Callable
) -> None:
    assert open_store(factored).hash == add_clips(tmp_path / "stored.store", rows, made)
    assert not list((factored / "arrays" / "ego_rays").glob("c/*"))


def test_rays_are_read_with_the_bits_of_stored_ones(factored: Path, made: Made) -> None:
    store = opened(factored)
    for name in RAYS:
        got = store.read(name, store.clip_ids[::-1])
        want = np.stack([made[clip_id][name] for clip_id in store.clip_ids[::-1]])
        assert got.tobytes() == want.tobytes()


def test_a_stream_gives_the_batches_of_the_store_with_stored_rays(
    tmp_path: Path, factored: Path, rows: list[ClipRow], made: Made, add_clips: Callable
) -> None:
    add_clips(tmp_path / "stored.store", rows, made)
    streams = [
        ClipStream(store, ("ego_latents", *RAYS), batch_size=2, seed=1, threads=2)
        for store in (opened(factored), open_store(tmp_path / "stored.store"))
    ]
    for _ in range(5):
        ours, theirs = (next(stream) for stream in streams)
        assert ours.clip_ids == theirs.clip_ids
        assert all(torch.equal(ours[read], theirs[read]) for read in ours.arrays)


def test_without_what_makes_them_rays_are_refused_and_not_zero(factored: Path) -> None:
    store = open_store(factored)
    with pytest.raises(StoreFault, match=r"factored.*ego_rays") as fault:
        ClipStream(store, ("ego_rays",), batch_size=1, seed=0)
    assert "CLIP_CAMERAS" in fault.value.fix
    assert store.info()["made_when_read"] == {"align_rays": 7, "ego_rays": 7}


def test_verify_makes_rays_and_compares_them(factored: Path) -> None:
    report = verify_store(opened(factored))
    assert (report.rows, report.rows_not_made, report.damaged) == (7 * 4 + 2 * 2, 0, ())
    report = verify_store(open_store(factored))
    assert (report.rows, report.rows_not_made, report.damaged) == (7 * 2 + 2 * 2, 7 * 2, ())


def test_verify_tells_rays_that_come_out_otherwise(factored: Path) -> None:
    other = {name: _one_bit_off(make) for name, make in CLIP_RAYS.items()}
    report = verify_store(open_store(factored, derive=other))
    assert {row.array for row in report.damaged} == set(RAYS)
    assert len(report.damaged) == 14 and {row.shard for row in report.damaged} == {-1}


def _one_bit_off(make: Callable) -> Callable:
    def row(*given) -> np.ndarray:
        rays = make(*given).copy()
        rays.view(np.uint16).flat[0] ^= 1
        return rays

    return row


def test_tars_of_a_factored_store_are_factored_and_come_back_with_its_hash(
    tmp_path: Path, factored: Path, made: Made
) -> None:
    store = opened(factored)
    report = export_tar(store, tmp_path / "tars", clips_per_tar=4)
    assert report.hash == store.hash
    tars = open_store(tmp_path / "tars", derive=CLIP_RAYS)
    some = tars.clip_ids[2]
    assert (tars.read("ego_rays", [some])[0] == made[some]["ego_rays"]).all()
    assert import_tar(tmp_path / "tars", tmp_path / "back.store") == store.hash
    assert verify_store(opened(tmp_path / "back.store")).damaged == ()
