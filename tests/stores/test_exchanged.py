"""Claims about files that are whole but in the wrong place: told at the first read, never taken."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stores.errors import StoreFault
from stores.index import ClipRow
from stores.schema import ARRAYS
from stores.stream import ClipStream
from stores.tar_store import export_tar
from stores.verify import verify_store
from stores.zarr_store import open_store

NAMES = pytest.mark.parametrize("name", [n for n, spec in ARRAYS.items() if spec.every_clip])


def shards(path: Path, name: str) -> list[Path]:
    return sorted(file for file in (path / "arrays" / name / "c").rglob("*") if file.is_file())


def exchange(a: Path, b: Path) -> None:
    aside = a.with_suffix(".aside")
    a.rename(aside)
    b.rename(a)
    aside.rename(b)


@NAMES
def test_two_shards_that_were_exchanged_are_not_read(store_path: Path, name: str) -> None:
    exchange(*shards(store_path, name)[:2])
    store = open_store(store_path)
    for clip_id in ("take_a-f000000", "take_a-f000144"):  # of the first shard, of the second
        with pytest.raises(StoreFault, match="other rows than the manifest says") as fault:
            store.read(name, [clip_id])
        assert clip_id in fault.value.what
    assert store.read(name, ["take_b-f000036"]).any()


def test_a_stream_stops_at_an_exchanged_shard_of_which_it_reads_first_frames_alone(
    store_path: Path,
) -> None:
    exchange(*shards(store_path, "ego_latents")[:2])
    stream = ClipStream(open_store(store_path), ("ego_latents[0]",), batch_size=5, seed=0)
    with pytest.raises(StoreFault, match="other rows"):
        next(stream)


def test_a_shard_of_another_store_is_not_read(
    store_path: Path, tmp_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Callable
) -> None:
    other = {
        c: {n: (row + 1).astype(row.dtype) for n, row in of.items()} for c, of in arrays.items()
    }
    add_clips(tmp_path / "other.store", rows, other)
    here, there = (
        shards(path, "ego_latents")[1] for path in (store_path, tmp_path / "other.store")
    )
    shutil.copy(there, here)
    with pytest.raises(StoreFault, match="exchanged or restored"):
        open_store(store_path).read("ego_latents", ["take_a-f000108"])


def test_tars_that_were_exchanged_are_not_read(store_path: Path, tmp_path: Path) -> None:
    export_tar(open_store(store_path), tmp_path / "tars", clips_per_tar=3)
    exchange(tmp_path / "tars" / "shard-000000.tar", tmp_path / "tars" / "shard-000001.tar")
    with pytest.raises(StoreFault, match="another member lies where"):
        open_store(tmp_path / "tars").read("ego_latents", ["take_a-f000000"])


def test_numbers_that_were_altered_in_a_tar_are_told_at_the_first_row_that_is_read_of_it(
    store_path: Path, tmp_path: Path, arrays: dict
) -> None:
    export_tar(open_store(store_path), tmp_path / "tars", clips_per_tar=1)
    tar = tmp_path / "tars" / "shard-000002.tar"
    data, row = tar.read_bytes(), arrays["take_a-f000072"]["ego_latents"].tobytes()
    tar.write_bytes(data.replace(row, row[:-1] + bytes([row[-1] ^ 1])))
    with pytest.raises(StoreFault, match="other rows"):
        open_store(tmp_path / "tars").read("ego_latents", ["take_a-f000072"])


def test_one_damaged_row_is_not_blamed_on_its_shard(store_path: Path, arrays: dict) -> None:
    file = shards(store_path, "ego_latents")[0]
    data = bytearray(file.read_bytes())
    data[5] ^= 1  # of the first row, which is the shard's witness
    file.write_bytes(bytes(data))
    store = open_store(store_path)
    whole = store.read("ego_latents", ["take_a-f000036"])[0]
    assert np.array_equal(whole, arrays["take_a-f000036"]["ego_latents"])
    assert verify_store(store).damaged_clips == ["take_a-f000000"]
    with pytest.raises(StoreFault, match="checksum"):
        store.read("ego_latents", ["take_a-f000000"])
