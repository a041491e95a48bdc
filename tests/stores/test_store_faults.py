"""Faults of the disk, and of whoever writes: told in five parts, nothing committed is lost."""

import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import orjson
import pytest

from stores.arrays import grow_group
from stores.atomic import PARTIAL
from stores.derived import write_derived
from stores.errors import StoreFault
from stores.fork import fork
from stores.garbage import gc
from stores.history import log, tag
from stores.index import ClipRow
from stores.journal import begin_run, read_entries
from stores.lock import write_lock
from stores.schema import ARRAYS, DERIVED
from stores.stream import ClipStream
from stores.tar_store import export_tar, import_tar
from stores.verify import verify_store
from stores.version import read_head
from stores.zarr_store import commit, head_clips, next_shard, open_store

GOLDEN = Path(__file__).parent / "golden"
TARS = GOLDEN / "tars.store"


def has_five_parts(fault: StoreFault) -> bool:
    parts = (fault.what, fault.where, fault.expected, fault.got, fault.fix)
    return all(str(part).strip() for part in parts)


def files(path: Path) -> dict[str, bytes]:
    every = [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in every}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an import makes that nothing disturbs."""
    path = tmp_path_factory.mktemp("whole") / "a.store"
    import_tar(TARS, path)
    return path


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """The folder with something mounted there. Skips the test where nobody may mount."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount, as root has it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def files_no_longer_than(length: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def only_whole_shards(path: Path, whole: Path) -> bool:
    """True if every shard that has its name has all of its bytes, and nothing partial is left."""
    found, right = files(path), files(whole)
    shards = {name for name in found if "/c/" in name}
    is_partial = any(name.endswith(PARTIAL) for name in found)
    return all(found[name] == right[name] for name in shards) and not is_partial


@pytest.mark.parametrize("length", [0, 60, 400, 700, 1100, 1500, 2200, 3000, 7500, 13000])
def test_a_file_size_limit_is_told_and_the_same_import_goes_on(
    tmp_path: Path, whole: Path, length: int
) -> None:
    path = tmp_path / "a.store"
    with files_no_longer_than(length), pytest.raises(StoreFault) as told:
        import_tar(TARS, path)
    assert has_five_parts(told.value) and only_whole_shards(path, whole)
    assert not (path / "HEAD").exists()
    assert import_tar(TARS, path) == open_store(whole).hash
    assert not verify_store(open_store(path)).damaged and only_whole_shards(path, whole)


def test_a_full_disk_is_told_wherever_it_fills_and_the_same_import_goes_on(
    tmp_path: Path, whole: Path
) -> None:
    told = set()
    for pages in range(2, 40, 3):
        with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={4 * pages}k", "tmpfs") as disk:
            path = disk / "a.store"
            try:
                import_tar(TARS, path)
            except StoreFault as fault:
                assert has_five_parts(fault)
                told.add(len(files(path)))
                assert not (path / "HEAD").exists() and only_whole_shards(path, whole)
                subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
            assert import_tar(TARS, path) == open_store(whole).hash
            assert not verify_store(open_store(path)).damaged
    assert len(told) > 4  # it filled at different files: lock, settings, shards, manifest


def a_commit(path: Path) -> Callable[[], object]:
    (clip, *_) = head_clips(path)
    relabelled = type(clip)(**{**clip.__dict__, "category": "Juggling"})
    return lambda: commit(path, [relabelled], command="test", index_digest="00")


@pytest.mark.parametrize("length", [64, 300, 5000, 1600])
def test_a_commit_without_room_leaves_the_version_before_and_is_done_later(
    store_path: Path, length: int
) -> None:
    before, do = read_head(store_path), a_commit(store_path)
    with files_no_longer_than(length), pytest.raises(StoreFault) as told:
        do()
    assert has_five_parts(told.value) and read_head(store_path) == before
    assert not verify_store(open_store(store_path)).damaged
    assert read_head(store_path) == before != do() == read_head(store_path)


def test_a_head_that_cannot_be_replaced_stays_and_is_replaced_later(store_path: Path) -> None:
    before, do = read_head(store_path), a_commit(store_path)
    os.truncate(store_path / "HEAD", 65)
    blocked = store_path / f"HEAD.{os.getpid()}-{threading.get_ident()}{PARTIAL}"
    blocked.symlink_to("/dev/full")
    with pytest.raises(StoreFault) as told:
        do()
    assert has_five_parts(told.value) and read_head(store_path) == before
    blocked.unlink(missing_ok=True)
    name = do()
    assert read_head(store_path) == name != before
    assert [entry.hash for entry in log(store_path)] == [name, before]


def test_tags_and_derived_rows_without_room_are_told(store_path: Path) -> None:
    store = open_store(store_path)
    shape = store.recipe.clips.shape
    ones = {n: np.ones(s.row_shape(shape), s.dtype) for n, s in DERIVED["first_frames"].items()}
    rows = [(clip_id, ones) for clip_id in store.clip_ids]
    with files_no_longer_than(200):
        with pytest.raises(StoreFault, match="disk refuses"):
            write_derived(store, "first_frames", "0" * 16, rows, {})
        with pytest.raises(StoreFault, match="cannot be made here"):
            fork(store_path, store_path.with_name("f.store"), {"clips.stride": 2})
    with files_no_longer_than(70), pytest.raises(StoreFault, match="disk refuses"):
        tag(store_path, "now")
    assert tag(store_path, "now") == store.hash
    write_derived(store, "first_frames", "0" * 16, rows, {})
    assert store.derived("first_frames").read("condition", store.clip_ids).all()


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """The golden stores on a disk that is mounted read-only; the tars without their index."""
    source = shutil.copytree(GOLDEN, tmp_path / "golden")
    (source / "tars.store" / "index.parquet").unlink()
    with mounted(tmp_path / "disk", "--bind", str(source)) as disk:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
        yield disk


@pytest.mark.parametrize("name", ["zarr.store", "tars.store"])
def test_a_read_only_disk_reads_verifies_and_streams(read_only: Path, name: str) -> None:
    store = open_store(read_only / name)
    assert not verify_store(store).damaged and store.info()["clips"] == 3
    batch = ClipStream(store, ["ego_rays"], batch_size=2, seed=1, split=None).batch_at(0)
    wanted = open_store(GOLDEN / name).read("ego_rays", batch.clip_ids)
    assert np.array_equal(np.asarray(batch["ego_rays"]), wanted)
    assert not (read_only / "tars.store" / "index.parquet").exists()


def test_writing_to_a_read_only_disk_is_refused(read_only: Path) -> None:
    path = read_only / "zarr.store"
    store = open_store(path)
    refused: list[Callable[[], object]] = [
        lambda: tag(path, "now"),
        a_commit(path),
        lambda: gc(path, dry_run=False),
        lambda: write_derived(store, "first_frames", "1" * 16, [], {}),
        lambda: export_tar(store, read_only / "new.tars"),
        lambda: import_tar(TARS, read_only / "new.store"),
        lambda: fork(path, read_only / "f.store", {"clips.stride": 2}),
        write_lock(path).__enter__,
    ]
    for write in refused:
        with pytest.raises(StoreFault) as told:
            write()
        assert has_five_parts(told.value) and "ead-only" in str(told.value)


NEWER = ["zarr.store/derived/*/derived.json", "tars.store/store.json", "tars.store/versions/*.json"]


@pytest.mark.parametrize("pattern", NEWER)
def test_a_newer_format_is_refused_and_says_upgrade(tmp_path: Path, pattern: str) -> None:
    copy = shutil.copytree(GOLDEN, tmp_path / "golden")
    (file,) = copy.glob(pattern)
    file.write_bytes(orjson.dumps({**orjson.loads(file.read_bytes()), "format": 2}))
    with pytest.raises(StoreFault, match="Upgrade exo2ego"):
        open_store(copy / pattern.split("/")[0]).derived("first_frames")


DAMAGED: dict[str, Callable[[Path], object]] = {
    "HEAD": lambda path: commit(path, [], command="test", index_digest="00"),
    "tags.json": lambda path: tag(path, "later"),
    "journal/run": lambda path: begin_run(path / "journal", 0),
    "journal/000007.json": lambda path: read_entries(path / "journal"),
    "arrays/ego_rays/zarr.json": next_shard,
    "arrays/ego_latents/zarr.json": lambda path: grow_group(path / "arrays", ARRAYS, 99),
    "store.json": lambda path: commit(path, [], command="test", index_digest="00"),
}


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"[{}]", b"\xff", b"null"], ids=repr)
@pytest.mark.parametrize("name", DAMAGED)
def test_a_writer_refuses_what_it_cannot_read(
    store_path: Path, rows: list[ClipRow], name: str, text: bytes
) -> None:
    tag(store_path, "now")
    (store_path / name).parent.mkdir(exist_ok=True)
    (store_path / name).write_bytes(text)
    with pytest.raises(StoreFault) as told:
        DAMAGED[name](store_path)
    assert has_five_parts(told.value)
