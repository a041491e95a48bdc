"""Claims about the store: other readers agree, holes never read as numbers, faults name clips."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorstore
import xarray
import zarr
from blake3 import blake3

import stores
from stores.errors import StoreFault
from stores.index import ClipRow
from stores.lock import write_lock
from stores.schema import ARRAYS
from stores.verify import verify_store
from stores.version import StoreRecipe, manifest_bytes
from stores.zarr_store import create_store, open_store, write_shard

NAMES = pytest.mark.parametrize("name", list(ARRAYS))


def shard_files(path: Path, name: str) -> list[Path]:
    return sorted(file for file in (path / "arrays" / name / "c").rglob("*") if file.is_file())


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def kept(rows: list[ClipRow], arrays: dict, name: str) -> list[str]:
    return [row.clip_id for row in rows if name in arrays[row.clip_id]]


@NAMES
def test_clips_come_back_bit_for_bit_in_the_order_asked_for(
    store_path: Path, rows: list[ClipRow], arrays: dict, name: str
) -> None:
    ids = kept(rows, arrays, name)[::-1]
    got = open_store(store_path).read(name, ids)
    assert got.tobytes() == np.stack([arrays[clip_id][name] for clip_id in ids]).tobytes()


def test_no_clips_are_an_empty_array(store_path: Path) -> None:
    assert open_store(store_path).read("ego_latents", []).shape == (0, 2, 16, 4, 6)


@NAMES
def test_zarr_python_reads_the_same_numbers(store_path: Path, arrays: dict, name: str) -> None:
    group = zarr.open_group(store_path / "arrays", mode="r")
    array, clips = group[name], open_store(store_path).rows
    assert isinstance(array, zarr.Array)
    assert array.metadata.dimension_names == ("clip", *ARRAYS[name].axes.split())
    for clip in clips:
        if clip.rows[name] >= 0:
            assert (np.asarray(array[clip.rows[name]]) == arrays[clip.clip_id][name]).all()


@NAMES
def test_tensorstore_reads_the_same_numbers(store_path: Path, arrays: dict, name: str) -> None:
    kvstore = {"driver": "file", "path": str(store_path / "arrays" / name)}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()
    for clip in open_store(store_path).rows:
        if clip.rows[name] >= 0:
            got = array[clip.rows[name]].read().result()
            assert (got == arrays[clip.clip_id][name]).all()


def test_xarray_opens_the_arrays_with_their_axes(store_path: Path, arrays: dict) -> None:
    data = xarray.open_zarr(store_path / "arrays", consolidated=False)
    assert data["exo_latents"].dims == ("clip", "t", "v", "c", "h", "w")
    clip = open_store(store_path).rows[2]
    got = data["exo_latents"].isel(clip=clip.rows["exo_latents"]).values
    assert (got == arrays[clip.clip_id]["exo_latents"]).all()


def test_rows_that_were_never_written_are_nan_to_other_readers(store_path: Path) -> None:
    array = zarr.open_array(store_path / "arrays" / "ego_latents", mode="r")
    used = {clip.rows["ego_latents"] for clip in open_store(store_path).rows}
    unused = set(range(array.shape[0])) - used
    assert unused and all(np.isnan(np.asarray(array[row])).all() for row in unused)


def test_a_first_frame_reads_only_its_own_bytes(
    store_path: Path, rows: list[ClipRow], arrays: dict
) -> None:
    ids = [row.clip_id for row in rows[:3]]
    spec = ARRAYS["exo_latents"].row_shape(open_store(store_path).recipe.clips.shape)
    piece = int(np.prod(spec[1:])) * 2
    for row in range(3):  # spoil every clip's second frame
        flip(shard_files(store_path, "exo_latents")[0], row * 2 * (piece + 4) + piece + 4 + 7)
    store = open_store(store_path)
    got = store.read("exo_latents", ids, first_frame=True)
    assert (got == np.stack([arrays[clip_id]["exo_latents"][0] for clip_id in ids])).all()
    with pytest.raises(StoreFault, match="checksum"):
        store.read("exo_latents", ids)


def test_an_array_without_frames_of_its_own_has_no_first_frame(store_path: Path) -> None:
    store = open_store(store_path)
    with pytest.raises(StoreFault, match="first frame"):
        store.read("align_rays", store.clip_ids[:1], first_frame=True)


@pytest.mark.parametrize("fault", ["deleted", "cut short", "index altered"])
def test_a_damaged_shard_names_array_shard_and_its_clips(
    store_path: Path, rows: list[ClipRow], fault: str
) -> None:
    file = shard_files(store_path, "ego_latents")[1]
    if fault == "deleted":
        file.unlink()
    elif fault == "cut short":
        os.truncate(file, file.stat().st_size // 2)
    else:
        flip(file, file.stat().st_size - 30)
    store = open_store(store_path)
    with pytest.raises(StoreFault, match="ego_latents") as told:
        store.read("ego_latents", [row.clip_id for row in rows])
    assert rows[3].clip_id in str(told.value) and rows[4].clip_id in str(told.value)
    assert rows[0].clip_id not in str(told.value) and "shard 1" in str(told.value)


def test_a_flipped_bit_names_the_one_clip(store_path: Path, rows: list[ClipRow]) -> None:
    file = shard_files(store_path, "ego_latents")[0]
    flip(file, file.stat().st_size // 2)
    with pytest.raises(StoreFault, match="ego_latents") as told:
        open_store(store_path).read("ego_latents", [row.clip_id for row in rows])
    named = [row.clip_id for row in rows if row.clip_id in str(told.value)]
    assert named == [rows[1].clip_id]


def test_verify_finds_nothing_in_a_whole_store(store_path: Path) -> None:
    report = verify_store(open_store(store_path))
    assert (report.clips, report.rows, report.damaged) == (7, 7 * 4 + 2 * 2, ())


def test_verify_names_every_damaged_clip(store_path: Path, rows: list[ClipRow]) -> None:
    flip(shard_files(store_path, "ego_rays")[0], 40)
    shard_files(store_path, "align_rays")[2].unlink()
    report = verify_store(open_store(store_path))
    assert report.damaged_clips == sorted(rows[k].clip_id for k in (0, 5, 6))
    assert {row.array for row in report.damaged} == {"ego_rays", "align_rays"}


def test_verify_finds_labels_that_were_edited_with_all_digests_put_right(store_path: Path) -> None:
    head = (store_path / "HEAD").read_text().strip()
    path = store_path / "versions" / f"{head}.parquet"
    table = pq.read_table(path)
    at = table.column_names.index("split")
    data = manifest_bytes(table.set_column(at, "split", pa.array(["train"] * len(table))))
    path.write_bytes(data)
    record = path.with_suffix(".json")
    about = orjson.loads(record.read_bytes()) | {"manifest_digest": blake3(data).hexdigest()}
    record.write_bytes(orjson.dumps(about))
    report = verify_store(open_store(store_path))
    assert report.damaged_clips == ["take_b-f000000", "take_b-f000036"]
    assert {(row.array, row.shard) for row in report.damaged} == {("clip", -1)}


def test_dask_computes_over_the_arrays(store_path: Path, arrays: dict) -> None:
    latents = dask.array.from_zarr(str(store_path / "arrays"), component="ego_latents")
    rows = {clip.clip_id: clip.rows["ego_latents"] for clip in open_store(store_path).rows}
    means = latents.astype("float64").mean(axis=(1, 2, 3, 4)).compute(scheduler="synchronous")
    for clip_id, row in rows.items():
        assert means[row] == arrays[clip_id]["ego_latents"].astype("float64").mean()


def test_verify_finds_a_whole_shard_of_other_numbers(
    store_path: Path, rows: list[ClipRow], arrays: dict
) -> None:
    others = [arrays[rows[k].clip_id]["align_rays"] for k in (0, 2, 1)]
    write_shard(store_path, 0, rows[:3], {"align_rays": others})
    report = verify_store(open_store(store_path))
    assert report.damaged_clips == [rows[1].clip_id, rows[2].clip_id]


def test_arrays_that_were_not_kept_are_told_not_made_up(
    store_path: Path, rows: list[ClipRow]
) -> None:
    store = open_store(store_path)
    with pytest.raises(StoreFault, match="does not keep ego_frames") as fault:
        store.read("ego_frames", [rows[5].clip_id, rows[0].clip_id])
    assert rows[0].clip_id in str(fault.value) and rows[5].clip_id not in str(fault.value)


def test_a_package_opens_its_stores(store_path: Path) -> None:
    assert stores.open_store(f"{store_path}@{open_store(store_path).hash[:9]}").clip_ids
    with pytest.raises(AttributeError, match="open_shop"):
        _ = stores.open_shop


def test_slips_of_the_pen_are_told(store_path: Path) -> None:
    store = open_store(store_path)
    with pytest.raises(StoreFault, match="no such array"):
        store.read("ego_latent", store.clip_ids)
    with pytest.raises(StoreFault, match="does not have the clip"):
        store.read("ego_latents", ["take_z-f000000"])


def test_the_hash_does_not_depend_on_the_order_of_writing(
    tmp_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Callable
) -> None:
    once = add_clips(tmp_path / "a", rows, arrays)
    turned = add_clips(tmp_path / "b", rows[::-1], arrays)
    add_clips(tmp_path / "c", rows[3:], arrays)
    assert once == turned == add_clips(tmp_path / "c", rows[:3], arrays)


def test_a_changed_number_changes_the_hash(
    tmp_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Callable
) -> None:
    before = add_clips(tmp_path / "a", rows, arrays)
    arrays[rows[2].clip_id]["align_rays"][1, 5, 3, 2] += 1
    assert add_clips(tmp_path / "b", rows, arrays) != before


def test_select_takes_clips_that_are_all_of_what_is_asked(store_path: Path) -> None:
    store = open_store(store_path)
    assert len(store.select()) == 7 and len(store.select(split="train")) == 5
    assert store.select(evaluation_set="test-1") == ["take_b-f000000"]
    assert store.select(split="train", category="Cooking") == []
    assert store.select(take="take_b", evaluation_set="test-all") == ["take_b-f000000"]
    assert store.select(take="take_a") == store.select(split="train") != []


def test_info_tells_what_is_there(store_path: Path) -> None:
    info = open_store(store_path).info()
    assert info["clips"] == 7 and info["takes"] == 2
    assert info["arrays"]["ego_latents"] == 7 and info["arrays"]["exo_frames"] == 2
    assert info["splits"] == {"train": 5, "test": 2}


@pytest.mark.parametrize("wrong", ["shape", "dtype", "nan"])
def test_a_row_that_does_not_fit_the_schema_is_refused(
    tmp_path: Path, rows: list[ClipRow], arrays: dict, recipe: StoreRecipe, wrong: str
) -> None:
    create_store(tmp_path / "s", recipe)
    row = arrays[rows[0].clip_id]["ego_latents"].copy()
    row = {"shape": row[:1], "dtype": row.astype("float32"), "nan": row}[wrong]
    if wrong == "nan":
        row[1, 2, 3, 4] = np.nan
    with pytest.raises(StoreFault, match="cannot be stored"):
        write_shard(tmp_path / "s", 0, rows[:1], {"ego_latents": [row]})
    assert not list((tmp_path / "s" / "arrays" / "ego_latents").rglob("c/*/0/0/0/0"))


@pytest.mark.parametrize(
    ("array", "place", "fits"),
    [
        ("exo_latents", np.s_[:, 1], True),
        ("exo_latents", np.s_[0, 1], False),  # one frame of a view
        ("exo_latents", np.s_[:, 0], False),  # the reference
        ("align_rays", np.s_[1], True),
        ("align_rays", np.s_[1, 2], False),
        ("ego_latents", np.s_[1], False),
    ],
)
def test_only_whole_views_after_the_first_may_be_nan(
    tmp_path: Path,
    rows: list[ClipRow],
    arrays: dict,
    add_clips: Callable,
    array: str,
    place: Any,
    fits: bool,
) -> None:
    arrays[rows[0].clip_id][array][place] = np.nan
    if fits:
        add_clips(tmp_path / "b", rows[:1], arrays)
        stored = open_store(tmp_path / "b").read(array, [rows[0].clip_id])[0]
        assert np.isnan(stored[place]).all()
    else:
        with pytest.raises(StoreFault, match="NaN or infinity"):
            add_clips(tmp_path / "b", rows[:1], arrays)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, recipe: StoreRecipe) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(StoreFault, match="cannot be made here"):
        create_store(tmp_path, recipe)
    assert [entry.name for entry in tmp_path.iterdir()] == ["photos"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, recipe: StoreRecipe) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFault, match="cannot be"):
        create_store(tmp_path / "file" / "s", recipe)
    with pytest.raises(StoreFault, match="cannot be"), write_lock(tmp_path / "file" / "s"):
        pass


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    with write_lock(tmp_path):
        fault = pytest.raises(StoreFault, match=f"process {os.getpid()} on ")
        with fault, write_lock(tmp_path):
            pass
    with write_lock(tmp_path):
        pass
    assert not (tmp_path / "lock").exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from stores.lock import write_lock\n"
        "with write_lock(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "lock").exists()
    with write_lock(tmp_path):
        pass


def test_the_lock_of_another_host_is_respected(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"pid": 1, "host": "elsewhere", "since": "today"}')
    with pytest.raises(StoreFault, match="elsewhere"), write_lock(tmp_path):
        pass
    assert (tmp_path / "lock").exists()
