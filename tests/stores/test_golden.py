"""The golden stores, committed beside this file, stay readable for ever.

Made once, by `PYTHONPATH=. python tests/stores/test_golden.py tests/stores/golden`. They are never
made again: a change of the format that cannot read them is a new format, with golden stores of its
own beside these.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from stores.derived import write_derived
from stores.history import log, tag
from stores.index import CameraRow, ClipRow, row_to_dict
from stores.recipe import ClipRecipe
from stores.schema import ARRAYS, DERIVED, ArraySpec
from stores.stream import ClipStream
from stores.tar_store import export_tar, import_tar
from stores.verify import verify_store
from stores.version import StoreRecipe, VaeRecipe, as_stored
from stores.zarr_store import (
    commit,
    create_store,
    head_clips,
    open_store,
    stored_clips,
    write_shard,
)

GOLDEN = Path(__file__).parent / "golden"
ZARR, TARS, FACTORED = GOLDEN / "zarr.store", GOLDEN / "tars.store", GOLDEN / "factored.store"
FIRST = "4365a07c25cd399e4d21bc7ecb44f19589caa7cd6fac7910a92a286477bdb597"
SECOND = "1ab3398fc80d085e855ae7fb8f86766b5c8f09ea98c966efaa59e60cc588cfee"
IDS = ("golden_a-f000000", "golden_a-f000036", "golden_b.1-f000000")
REPLACED = IDS[1]
ORDER = [IDS[number] for number in (0, 2, 1, 0, 1, 2, 2, 1, 0)]
"""Clips of three epochs at seed 20261125: the order is part of the format."""
CLIPS_PER_SHARD, SEED = 2, 20261125
RAYS = ("align_rays", "ego_rays")
RECIPE = StoreRecipe(
    clips=ClipRecipe(frames=5, views=2, hw=(16, 32)),
    vae=VaeRecipe(class_name="Golden", weights_digest="00ff", config_digest="ff00"),
)
SHAPE = RECIPE.clips.shape


def golden_row(spec: ArraySpec, clip_id: str, version: int) -> np.ndarray:
    """The clip's row: whole numbers, in sixteenths for float16, so that every one is exact."""
    shape = spec.row_shape(SHAPE)
    salt = 101 * IDS.index(clip_id) + 13 * len(spec.name)
    salt += 7 * (version == 2 and clip_id == REPLACED)
    numbers = np.arange(np.prod(shape), dtype=np.int64).reshape(shape) * 37 + salt
    if spec.dtype == "uint8":
        return (numbers % 251).astype(np.uint8)
    return ((numbers % 2001 - 1000) / 16).astype(np.float16)


def golden_clip(clip_id: str, version: int) -> ClipRow:
    """What the index says of the clip; the first one is relabelled in version 2."""
    number, (take, start) = IDS.index(clip_id), clip_id.split("-f")
    relabelled = version == 2 and number == 0
    return ClipRow(
        clip_id=clip_id,
        take_name=take,
        take_uid=f"uid-{take}",
        capture_name="capture",
        participant_uid="7",
        category="Cooking" if relabelled else "Bike Repair",
        split="test" if "b" in take.split("_")[1] else "train",
        frames=tuple(range(int(start), int(start) + 20, 4)),
        ego=_camera("aria", moves=5),
        exos=(_camera("cam01"), _camera("cam02")),
        sets=("test-all",) if number == 2 else (),
    )


def _camera(cam_id: str, moves: int = 1) -> CameraRow:
    poses = np.tile(np.eye(4), (moves, 1, 1))
    poses[:, 0, 3] = np.arange(moves) / 8
    params = (50.5, 51.25, 24.0, 16.0)
    return CameraRow(cam_id, f"take/{cam_id}.mp4", "pinhole", params, (32, 48), 0, poses)


def _kept(clip_id: str) -> list[str]:
    return [name for name, spec in ARRAYS.items() if spec.every_clip or clip_id == IDS[2]]


def write_golden(folder: Path) -> None:
    """Writes the stores. Called by hand, once: see above."""
    name = _write_zarr(folder / "zarr.store")
    export_tar(open_store(folder / "zarr.store"), folder / "tars.store", clips_per_tar=2)
    assert _write_clips(folder / "factored.store", 0, IDS, 2, apart=RAYS) == name


def _write_zarr(path: Path) -> str:
    first = _write_clips(path, 0, IDS, 1)
    tag(path, "paper-v1")
    (old,) = (clip for clip in head_clips(path) if clip.clip_id == IDS[0])
    relabelled = as_stored(golden_clip(IDS[0], 2), old.rows, old.digests)
    commit(path, [relabelled], command="golden", index_digest="01")
    name = _write_clips(path, 2, [REPLACED], 2)
    assert first != name
    store = open_store(path)
    rows = ((c, {n: golden_row(s, c, 2) for n, s in DERIVED["first_frames"].items()}) for c in IDS)
    write_derived(store, "first_frames", "0123456789abcdef", rows, {"made by": "golden"})
    return name


def _write_clips(
    path: Path, shard: int, ids: tuple[str, ...] | list[str], version: int, apart: tuple = ()
) -> str:
    """Writes the clips, those of one take in one shard, and commits them."""
    create_store(path, RECIPE, clips_per_shard=CLIPS_PER_SHARD)
    new = []
    for take in dict.fromkeys(clip_id.split("-")[0] for clip_id in ids):
        clips = [golden_clip(c, version) for c in ids if c.startswith(f"{take}-")]
        rows = {
            name: [golden_row(ARRAYS[name], clip.clip_id, version) for clip in clips]
            for name in _kept(clips[0].clip_id)
        }
        stored = {name: given for name, given in rows.items() if name not in apart}
        left = {name: given for name, given in rows.items() if name in apart}
        finished = write_shard(path, shard, clips, stored, left)
        new += stored_clips(finished, {clip.clip_id: clip for clip in clips}, CLIPS_PER_SHARD)
        shard += 1
    return commit(path, new, command="golden", index_digest="00")


def _made(name: str) -> Callable:
    return lambda _, clip: golden_row(ARRAYS[name], clip.clip_id, 2)


DERIVE: Mapping = {name: _made(name) for name in RAYS}
VERSIONS = [(ZARR, FIRST, 1), (ZARR, SECOND, 2), (TARS, SECOND, 2), (FACTORED, SECOND, 2)]
EACH = pytest.mark.parametrize(
    ("path", "name", "version"), VERSIONS, ids=["zarr first", "zarr", "tars", "factored"]
)


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's bytes and time, and every folder's time."""
    found = sorted([folder, *folder.rglob("*")])
    return {
        str(path): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in found
    }


@pytest.fixture(autouse=True, scope="module")
def nothing_is_written():
    """Whatever these tests read, the golden stores are to the byte and the time as before."""
    before = state(GOLDEN)
    yield
    assert state(GOLDEN) == before


@EACH
def test_every_row_is_the_formulas(path: Path, name: str, version: int) -> None:
    store = open_store(f"{path}@{name}", derive=DERIVE)
    assert store.hash == name and tuple(store.clip_ids) == IDS
    for clip_id in IDS:
        for array in _kept(clip_id):
            got = store.read(array, [clip_id])[0]
            assert got.tobytes() == golden_row(ARRAYS[array], clip_id, version).tobytes()
    assert [store.row(c).rows["ego_frames"] >= 0 for c in IDS] == [False, False, True]


@EACH
def test_verify_finds_nothing(path: Path, name: str, version: int) -> None:
    report = verify_store(open_store(f"{path}@{name}", derive=DERIVE))
    assert (report.damaged, report.clips, report.rows, report.rows_not_made) == ((), 3, 14, 0)


@EACH
def test_clips_are_what_they_were(path: Path, name: str, version: int) -> None:
    store = open_store(f"{path}@{name}")
    for row in store.rows:
        wanted = golden_clip(row.clip_id, version)
        fields = ("take_uid", "category", "split", "frames", "sets")
        assert [getattr(row, f) for f in fields] == [getattr(wanted, f) for f in fields]
        assert row_to_dict(row)["ego"] == row_to_dict(wanted)["ego"]
        assert row_to_dict(row)["exos"] == row_to_dict(wanted)["exos"]


def test_heads_tags_and_history_are_literal() -> None:
    assert [open_store(path).hash for path in (ZARR, TARS, FACTORED)] == [SECOND] * 3
    assert open_store(f"{ZARR}@paper-v1").hash == FIRST
    newest, middle, oldest = log(ZARR)
    assert (newest.hash, oldest.hash, oldest.tags) == (SECOND, FIRST, ("paper-v1",))
    assert [(entry.added, entry.changed) for entry in (newest, middle, oldest)] == [
        (0, 1),
        (0, 1),
        (3, 0),
    ]


@pytest.mark.parametrize("path", [ZARR, TARS, FACTORED], ids=lambda path: path.stem)
def test_the_order_of_a_stream_is_literal(path: Path) -> None:
    store = open_store(path, derive=DERIVE)
    stream = ClipStream(store, ["exo_latents[0]"], batch_size=1, seed=SEED, split=None)
    assert [stream.batch_at(step).clip_ids[0] for step in range(9)] == ORDER


def test_the_tars_become_a_store_of_the_same_hash(tmp_path: Path) -> None:
    assert import_tar(TARS, tmp_path / "a.store") == SECOND
    assert not verify_store(open_store(tmp_path / "a.store")).damaged


def test_derived_rows_are_the_formulas() -> None:
    derived = open_store(ZARR).derived("first_frames", "0123456789abcdef")
    assert derived.provenance == {"made by": "golden"}
    for name, spec in DERIVED["first_frames"].items():
        wanted = np.stack([golden_row(spec, clip_id, 2) for clip_id in IDS])
        assert (derived.read(name, IDS) == wanted).all()


@pytest.mark.parametrize("name", ARRAYS)
def test_zarr_python_reads_every_row(name: str) -> None:
    array = zarr.open_group(ZARR / "arrays", mode="r")[name]
    for clip in open_store(ZARR).rows:
        if clip.rows[name] >= 0:
            assert (array[clip.rows[name]] == golden_row(ARRAYS[name], clip.clip_id, 2)).all()


@pytest.mark.parametrize("name", ["exo_latents", "ego_latents", "ego_frames", "ego_rays"])
def test_tensorstore_reads_every_row(name: str) -> None:
    kvstore = {"driver": "file", "path": str(ZARR / "arrays" / name)}
    array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
    for clip in open_store(ZARR).rows:
        if clip.rows[name] >= 0:
            got = array[clip.rows[name]].read().result()
            assert (got == golden_row(ARRAYS[name], clip.clip_id, 2)).all()


@pytest.mark.parametrize("path", [ZARR, TARS, FACTORED], ids=lambda path: path.stem)
def test_a_copy_that_nobody_may_write_reads_and_stays_as_it_is(path: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(path, tmp_path / "copy")
    for folder, _, files in os.walk(copy, topdown=False):
        for file in files:
            Path(folder, file).chmod(0o444)
        Path(folder).chmod(0o555)
    before = state(copy)
    assert not verify_store(open_store(copy, derive=DERIVE)).damaged
    assert state(copy) == before
    for folder, _, _ in os.walk(copy):
        Path(folder).chmod(0o755)


def test_all_of_it_is_small() -> None:
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 300 * 1024


if __name__ == "__main__":
    write_golden(Path(sys.argv[1]))
