"""Claims about tar shards: the same hash both ways, read by others, nothing strange let in."""

import gc
import io
import os
import shutil
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from stores.errors import StoreFault
from stores.index import ClipRow
from stores.schema import ARRAYS
from stores.stream import ClipStream
from stores.tar_reading import TarStore
from stores.tar_shard import clip_id_of, clip_key, npy_header
from stores.tar_store import export_tar, import_tar
from stores.verify import verify_store
from stores.version import StoreRecipe, clip_digest
from stores.zarr_store import create_store, open_store

NAMES = pytest.mark.parametrize("name", list(ARRAYS))


@pytest.fixture
def tars(store_path: Path, tmp_path: Path) -> Path:
    """The seven clips as four tars of two, the last of one."""
    export_tar(open_store(store_path), tmp_path / "a.tars", clips_per_tar=2)
    return tmp_path / "a.tars"


def shard(tars: Path, number: int) -> Path:
    return tars / f"shard-{number:06d}.tar"


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore


def rewrite(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for about, data in members:
            about.size = len(data) if about.isreg() else 0
            tar.addfile(about, io.BytesIO(data))


def samples(paths: list[Path]) -> list[dict[str, Any]]:
    """What plain webdataset makes of the tars; it leaves them open for the collector to close."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = list(webdataset.WebDataset(list(map(str, paths)), shardshuffle=False).decode())
        gc.collect()
    return found


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(bytes(data))


def test_zarr_to_tar_to_zarr_keeps_the_hash_and_every_bit(
    store_path: Path, tars: Path, tmp_path: Path, arrays: dict
) -> None:
    first = open_store(store_path)
    assert open_store(tars).hash == first.hash
    assert import_tar(tars, tmp_path / "b.store", clips_per_shard=4) == first.hash
    again = open_store(tmp_path / "b.store")
    assert again.hash == first.hash and not verify_store(again).damaged
    for clip_id, rows in arrays.items():
        for name, row in rows.items():
            assert again.read(name, [clip_id])[0].tobytes() == row.tobytes()


def test_tar_to_zarr_to_tar_gives_the_same_tars(tars: Path, tmp_path: Path) -> None:
    import_tar(tars, tmp_path / "b.store", clips_per_shard=5)
    export_tar(open_store(tmp_path / "b.store"), tmp_path / "b.tars", clips_per_tar=2)
    for number in range(4):
        assert shard(tmp_path / "b.tars", number).read_bytes() == shard(tars, number).read_bytes()
    manifests = [
        next((folder / "versions").glob("*.parquet")) for folder in (tars, tmp_path / "b.tars")
    ]
    assert manifests[0].read_bytes() == manifests[1].read_bytes()


@NAMES
def test_clips_come_back_bit_for_bit_in_the_order_asked_for(
    tars: Path, arrays: dict, name: str
) -> None:
    ids = [clip_id for clip_id, rows in arrays.items() if name in rows][::-1]
    got = open_store(tars).read(name, ids)
    assert got.tobytes() == np.stack([arrays[clip_id][name] for clip_id in ids]).tobytes()


def test_a_first_frame_is_read_alone(tars: Path, arrays: dict) -> None:
    store = open_store(tars)
    got = store.read("exo_latents", store.clip_ids, first_frame=True)
    assert (got == np.stack([arrays[c]["exo_latents"][0] for c in store.clip_ids])).all()


def test_a_stream_gives_the_same_batches_from_either_container(
    store_path: Path, tars: Path
) -> None:
    reads = ("exo_latents[0]", "ego_latents", "ego_rays")
    streams = [
        ClipStream(open_store(path), reads, batch_size=2, seed=3) for path in (store_path, tars)
    ]
    for step in (0, 1, 5):
        zarr, tar = (stream.batch_at(step) for stream in streams)
        assert zarr.clip_ids == tar.clip_ids
        assert all((zarr[read] == tar[read]).all() for read in reads)


def test_both_containers_say_the_same_of_clips(store_path: Path, tars: Path) -> None:
    zarr, tar = open_store(store_path), open_store(tars)
    assert isinstance(tar, TarStore) and tar.recipe == zarr.recipe
    assert tar.select(split="test") == zarr.select(split="test")
    assert list(map(clip_digest, tar.rows)) == list(map(clip_digest, zarr.rows))
    assert (tar.info()["container"], zarr.info()["container"]) == ("webdataset", "zarr")
    assert tar.info()["arrays"] == zarr.info()["arrays"]
    with pytest.raises(StoreFault, match="does not keep ego_frames"):
        tar.read("ego_frames", tar.select(split="train")[:1])


def test_plain_webdataset_reads_the_numbers(tars: Path, arrays: dict) -> None:
    found = samples([shard(tars, number) for number in range(4)])
    assert [clip_id_of(sample["__key__"]) for sample in found] == sorted(arrays)
    for sample in found:
        expected = arrays[sample["json"]["clip_id"]]
        assert {key for key in sample if key.endswith(".npy")} == {f"{a}.npy" for a in expected}
        for name, row in expected.items():
            assert (sample[f"{name}.npy"] == row).all()


def test_members_are_what_numpy_saves_and_the_manifest_signs(
    tars: Path, arrays: dict, rows: list[ClipRow]
) -> None:
    members = contents(shard(tars, 0))
    assert len(members) == 2 * (1 + 4)
    for name, data in members.items():
        clip_id, ending = name.split(".", 1)
        if ending == "json":
            (row,) = (row for row in rows if row.clip_id == clip_id)
            assert blake3.blake3(data).hexdigest() == clip_digest(row)
        else:
            saved = io.BytesIO()
            np.save(saved, arrays[clip_id][ending.removesuffix(".npy")])
            assert data == saved.getvalue()


def test_tars_are_of_nobody_and_of_no_time(tars: Path) -> None:
    with tarfile.open(shard(tars, 0)) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


@given(st.text(min_size=1))
def test_any_id_becomes_a_key_without_dots_and_back(clip_id: str) -> None:
    try:
        key = clip_key(clip_id)
    except UnicodeEncodeError:  # half of a surrogate pair is no text
        return
    assert not set(key) & {".", "/", "\\", "\0"} and key.isascii()
    assert clip_id_of(key) == clip_id


def test_odd_and_long_ids_survive_both_ways(
    tmp_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Callable[..., str]
) -> None:
    names = ("../v1.2 ü%2E", "long" * 40 + "a", "long" * 40 + "b")
    clips = [replace(row, clip_id=name) for row, name in zip(rows[:3], names, strict=True)]
    numbers = {new.clip_id: arrays[old.clip_id] for new, old in zip(clips, rows[:3], strict=True)}
    name = add_clips(tmp_path / "odd.store", clips, numbers)
    export_tar(open_store(tmp_path / "odd.store"), tmp_path / "odd.tars")
    assert import_tar(tmp_path / "odd.tars", tmp_path / "again.store") == name
    found = samples([shard(tmp_path / "odd.tars", 0)])
    assert {clip_id_of(sample["__key__"]) for sample in found} == set(names)


def test_verify_finds_a_flipped_bit_and_import_refuses_it(tars: Path, tmp_path: Path) -> None:
    store = open_store(tars)
    number = 3
    header = len(npy_header(store.reader("ego_rays").layout))
    flip(shard(tars, 1), int(store.offsets["ego_rays"][number]) + header + 1000)  # type: ignore
    (damage,) = verify_store(open_store(tars)).damaged
    assert (damage.clip_id, damage.array, damage.shard) == (store.clip_ids[number], "ego_rays", 1)
    with pytest.raises(StoreFault, match="ego_rays") as told:
        import_tar(tars, tmp_path / "b.store")
    assert store.clip_ids[number] in str(told.value) and "shard-000001" in str(told.value)
    with pytest.raises(StoreFault, match="nothing was ever committed"):
        open_store(tmp_path / "b.store")


def test_import_refuses_a_description_that_was_altered(tars: Path, tmp_path: Path) -> None:
    path = shard(tars, 0)
    path.write_bytes(path.read_bytes().replace(b"Bike Repair", b"Bike repair", 1))
    with pytest.raises(StoreFault, match=r"json is not what the manifest says"):
        import_tar(tars, tmp_path / "b.store")


STRANGERS = {
    "../x": "leads out",
    "/etc/x": "leads out",
    "a/b.json": "no plain file",
    "take_a-f000000.depth.npy": "no clip and array",
    "nobody.json": "no clip and array",
    "take_a-f000000.json": "twice",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_member_that_does_not_belong_there_is_refused(
    tars: Path, tmp_path: Path, name: str
) -> None:
    with tarfile.open(shard(tars, 0), "a") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(StoreFault, match=STRANGERS[name]) as told:
        import_tar(tars, tmp_path / "b.store")
    assert "shard-000000" in str(told.value) and not (tmp_path / "b.store").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_a_link_in_the_place_of_an_array_is_refused(
    tars: Path, tmp_path: Path, kind: bytes
) -> None:
    members = [(tarfile.TarInfo(name), data) for name, data in contents(shard(tars, 2)).items()]
    members[1][0].type, members[1][0].linkname = kind, "/etc/passwd"
    rewrite(shard(tars, 2), members)
    with pytest.raises(StoreFault, match="no plain file"):
        import_tar(tars, tmp_path / "b.store")


def test_a_clip_that_is_missing_is_named(tars: Path, tmp_path: Path) -> None:
    members = contents(shard(tars, 1))
    lost = open_store(tars).clip_ids[3]
    kept = [(tarfile.TarInfo(n), data) for n, data in members.items() if not n.startswith(lost)]
    rewrite(shard(tars, 1), kept)
    (tars / "index.parquet").unlink()
    with pytest.raises(StoreFault, match=lost):
        import_tar(tars, tmp_path / "b.store")
    store = open_store(tars)
    with pytest.raises(StoreFault, match=rf"ego_latents of {lost} cannot be read"):
        store.read("ego_latents", store.clip_ids)


@pytest.mark.parametrize("index", ["kept", "lost"])
@pytest.mark.parametrize("fault", ["deleted", "cut short"])
def test_a_tar_that_is_not_whole_names_its_clips(
    tars: Path, arrays: dict, fault: str, index: str
) -> None:
    path = shard(tars, 1)
    path.unlink() if fault == "deleted" else os.truncate(path, path.stat().st_size // 2)
    if index == "lost":
        (tars / "index.parquet").unlink()
    store = open_store(tars)
    damaged = verify_store(store).damaged_clips
    assert damaged and set(damaged) <= set(store.clip_ids[2:4])
    with pytest.raises(StoreFault, match=damaged[-1]) as told:
        store.read("ego_rays", store.clip_ids)
    assert "shard-000001" in str(told.value)
    others = [clip_id for clip_id in store.clip_ids if clip_id not in store.clip_ids[2:4]]
    got = store.read("ego_rays", others)
    assert (got == np.stack([arrays[clip_id]["ego_rays"] for clip_id in others])).all()


def test_tars_that_were_swapped_are_never_read_as_each_other(tars: Path) -> None:
    shard(tars, 0).rename(tars / "aside")
    shard(tars, 1).rename(shard(tars, 0))
    (tars / "aside").rename(shard(tars, 1))
    store = open_store(tars)
    with pytest.raises(StoreFault, match="another member"):
        store.read("ego_latents", store.clip_ids[:1])


def test_an_array_of_another_type_is_refused_not_reinterpreted(tars: Path) -> None:
    store = open_store(tars)
    header = int(store.offsets["align_rays"][0])  # type: ignore
    data = bytearray(shard(tars, 0).read_bytes())
    data[header : header + 128] = bytes(data[header : header + 128]).replace(b"<f2", b">f2")
    shard(tars, 0).write_bytes(bytes(data))
    with pytest.raises(StoreFault, match="not the npy file"):
        open_store(tars).read("align_rays", store.clip_ids[:1])


@pytest.mark.parametrize("fault", ["lost", "damaged", "of another version"])
def test_the_index_is_made_again_from_headers(tars: Path, arrays: dict, fault: str) -> None:
    path = tars / "index.parquet"
    first = path.read_bytes()
    if fault == "lost":
        path.unlink()
    elif fault == "damaged":
        path.write_bytes(first[: len(first) // 2])
    else:
        pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    store = open_store(tars)
    assert path.read_bytes() == first
    assert (
        store.read("ego_latents", store.clip_ids[4:5])[0]
        == arrays[store.clip_ids[4]]["ego_latents"]
    ).all()


def test_an_interrupted_export_goes_on_where_it_stopped(
    store_path: Path, tars: Path, tmp_path: Path
) -> None:
    whole = {path.name: path.read_bytes() for path in tars.iterdir() if path.is_file()}
    for name in ("HEAD", "index.parquet", "shard-000003.tar"):
        (tars / name).unlink()
    os.truncate(shard(tars, 1), 5000)
    with pytest.raises(StoreFault, match="interrupted export"):
        open_store(tars)
    report = export_tar(open_store(store_path), tars, clips_per_tar=2)
    assert (report.shards, report.shards_new, report.clips) == (4, 2, 7)
    assert {path.name: path.read_bytes() for path in tars.iterdir() if path.is_file()} == whole


def test_an_interrupted_import_keeps_what_it_finished(
    store_path: Path, tars: Path, tmp_path: Path
) -> None:
    good = shard(tars, 3).read_bytes()
    offset = int(open_store(tars).offsets["ego_rays"][6])  # type: ignore
    flip(shard(tars, 3), offset + 3000)
    with pytest.raises(StoreFault):
        import_tar(tars, tmp_path / "b.store", clips_per_shard=3)
    finished = tmp_path / "b.store" / "arrays" / "ego_rays" / "c" / "0"
    before = [path.stat().st_mtime_ns for path in finished.rglob("0") if path.is_file()]
    shard(tars, 3).write_bytes(good)
    name = import_tar(tars, tmp_path / "b.store", clips_per_shard=3)
    assert name == open_store(store_path).hash == import_tar(tars, tmp_path / "b.store")
    assert before == [path.stat().st_mtime_ns for path in finished.rglob("0") if path.is_file()]
    assert not verify_store(open_store(tmp_path / "b.store")).damaged


def test_an_export_never_lands_on_something_else(
    store_path: Path, tars: Path, tmp_path: Path
) -> None:
    store = open_store(store_path)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    for out, size in ((tars, 3), (store_path, 2), (tmp_path / "letters", 2)):
        with pytest.raises(StoreFault, match="Something else lies here"):
            export_tar(store, out, clips_per_tar=size)


def test_a_damaged_row_is_not_exported(store_path: Path, tmp_path: Path) -> None:
    (file,) = (
        path for path in (store_path / "arrays/ego_latents/c/1").rglob("0") if path.is_file()
    )
    flip(file, 100)
    with pytest.raises(StoreFault, match="ego_latents of take_a"):
        export_tar(open_store(store_path, check=False), tmp_path / "a.tars")
    with pytest.raises(StoreFault, match="interrupted export"):
        open_store(tmp_path / "a.tars")


def test_import_refuses_a_store_with_other_clips_and_a_zarr_store(
    tars: Path, tmp_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Callable[..., str]
) -> None:
    add_clips(tmp_path / "other.store", rows[:2], arrays)
    with pytest.raises(StoreFault, match="Something else lies here"):
        import_tar(tars, tmp_path / "other.store")
    with pytest.raises(StoreFault, match="not a folder of tar shards"):
        import_tar(tmp_path / "other.store", tmp_path / "c.store")


def test_nobody_writes_zarr_shards_into_a_folder_of_tars(tars: Path, recipe: StoreRecipe) -> None:
    with pytest.raises(StoreFault, match="cannot be made here"):
        create_store(tars, recipe)


def test_a_container_of_the_future_is_refused(tars: Path) -> None:
    about = orjson.loads((tars / "store.json").read_bytes())
    (tars / "store.json").write_bytes(orjson.dumps(about | {"container": "parquet"}))
    with pytest.raises(StoreFault, match="parquet"):
        open_store(tars)


def test_tars_read_from_a_folder_that_cannot_be_written(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tars / "index.parquet").unlink()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("stores.tar_index.whole_file", refuse)
    assert open_store(tars).read("ego_latents", open_store(tars).clip_ids).any()
    assert not (tars / "index.parquet").exists()


def test_another_user_unpacks_the_tars_with_plain_tools(tars: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(shard(tars, 0), tmp_path / "plain", "tar", filter="data")
    row = np.load(tmp_path / "plain" / "take_a-f000000.ego_latents.npy", allow_pickle=False)
    assert (row == open_store(tars).read("ego_latents", ["take_a-f000000"])[0]).all()
