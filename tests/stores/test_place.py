"""Claims about places: an object store is used like a folder, and two writers lose nothing."""

import os
import pickle
import socket
import threading
from pathlib import Path

import orjson
import pytest

from stores.atomic import remove_partials, staged, update_whole, whole_file, write_whole
from stores.errors import StoreFault
from stores.lock import write_lock
from stores.place import RemotePath, bytes_below, place

FILES = {"a.json": b"1", "b/c.json": b"22", "b/d/e.bin": b"", "b/d/f.json": bytes(70_000)}
PATTERNS = ("*", "*.json", "b/*", "*/*.json", "b/d/*", "z*")


@pytest.fixture
def both(tmp_path: Path, bucket: RemotePath) -> tuple[Path, RemotePath]:
    """The same files in a folder and in a bucket, and a neighbour whose name begins alike."""
    for root in (tmp_path / "s", bucket / "s"):
        for name, data in FILES.items():
            write_whole(root / name, data)
        write_whole(root.with_name("s2") / "a.json", b"not below s")
    return tmp_path / "s", bucket / "s"


@pytest.mark.parametrize("text", ["s3://bucket/a.store", "s3://bucket/a.store/"])
def test_a_url_stays_itself_through_what_paths_do(text: str) -> None:
    found = place(text)
    assert isinstance(found, RemotePath) and str(found) == "s3://bucket/a.store"
    below = found / "versions" / "x.json"
    assert str(below) == "s3://bucket/a.store/versions/x.json"
    assert (below.stem, below.parent.parent, below.parts[2:]) == (
        "x",
        found,
        ("a.store", "versions", "x.json"),
    )
    assert str(below.relative_to(found)) == "versions/x.json"
    again = pickle.loads(pickle.dumps(below))
    assert (again, str(again), type(again)) == (below, str(below), RemotePath)


def test_what_is_no_url_is_a_path() -> None:
    assert place("some/where") == Path("some/where")
    assert place(Path("some:/where")) == Path("some:/where")


@pytest.mark.parametrize("text", ["ftp://host/a.store", "s3://", "http://host/a.store"])
def test_a_url_of_another_kind_is_told(text: str) -> None:
    with pytest.raises(StoreFault, match=r"s3://BUCKET/NAME"):
        place(text)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_bucket_lists_as_a_folder_does(both: tuple[Path, RemotePath], pattern: str) -> None:
    local, remote = ([str(p.relative_to(r)) for p in r.glob(pattern)] for r in both)
    assert sorted(local) == sorted(remote)
    below = [{p.relative_to(r) for p in r.rglob("*.json") if p.is_file()} for r in both]
    assert set(map(str, below[0])) == set(map(str, below[1]))


def test_objects_read_as_files_do(both: tuple[Path, RemotePath]) -> None:
    local, remote = both
    for name, data in FILES.items():
        assert (remote / name).read_bytes() == data and (remote / name).is_file()
        assert (remote / name).stat().st_size == len(data)
        with (remote / name).open("rb") as file:
            file.seek(-min(len(data), 3), 2)
            assert file.read() == data[-3:]
    for name in ("b", "b/d", "a.json", "none", "b/d/f"):
        one, other = local / name, remote / name
        assert (one.exists(), one.is_dir(), one.is_file()) == (
            other.exists(),
            other.is_dir(),
            other.is_file(),
        )
    assert bytes_below(remote) == bytes_below(local) == sum(map(len, FILES.values()))
    assert bytes_below(remote / "b/c.json") == 2


def test_an_absent_object_is_an_absent_file(bucket: RemotePath) -> None:
    for ask in (RemotePath.read_bytes, RemotePath.stat, RemotePath.unlink):
        with pytest.raises(FileNotFoundError) as absent:
            ask(bucket / "none")
        assert absent.value.filename == str(bucket / "none")
    (bucket / "none").unlink(missing_ok=True)


def test_a_file_that_is_not_finished_is_not_there(bucket: RemotePath) -> None:
    with pytest.raises(RuntimeError), whole_file(bucket / "x") as file:
        file.write(bytes(2**20))
        raise RuntimeError
    remove_partials(bucket)
    assert not list(bucket.rglob("*"))
    with whole_file(bucket / "x") as file:
        file.write(b"all of it")
    assert (bucket / "x").read_bytes() == b"all of it"


def test_an_upload_that_the_server_breaks_off_leaves_nothing(bucket: RemotePath, s3) -> None:
    s3.before = lambda method, path: "503 Slow Down" if method == "PUT" else None
    with pytest.raises(StoreFault, match="refuses"), whole_file(bucket / "x") as file:
        file.write(b"half")
    s3.before = lambda method, path: None
    assert not list(bucket.rglob("*"))


def test_files_that_belong_together_are_put_together_and_not_over_others(
    bucket: RemotePath,
) -> None:
    for _ in range(2):  # the same again is no harm: an answer of the server may get lost
        with staged(bucket) as folder:
            write_whole(folder / "a" / "x", b"mine")
            write_whole(folder / "b" / "x", b"")
    with pytest.raises(RuntimeError), staged(bucket) as folder:
        write_whole(folder / "c" / "x", b"finished, but the next one is not")
        raise RuntimeError
    with pytest.raises(StoreFault, match="in spite of the lock"), staged(bucket) as folder:
        write_whole(folder / "a" / "x", b"other")
    found = {str(path.relative_to(bucket)): path.read_bytes() for path in bucket.rglob("*")}
    assert found == {"a/x": b"mine", "b/x": b""}


def test_on_a_disk_files_are_written_where_they_belong(tmp_path: Path) -> None:
    with staged(tmp_path) as folder:
        assert folder == tmp_path


def test_of_many_who_change_one_object_at_once_nobody_is_lost(bucket: RemotePath) -> None:
    def add(name: str) -> None:
        update_whole(
            bucket / "all.json", lambda old: orjson.dumps({**orjson.loads(old or b"{}"), name: 1})
        )

    threads = [threading.Thread(target=add, args=(str(k),)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = orjson.loads((bucket / "all.json").read_bytes())
    assert found == {str(k): 1 for k in range(6)}


def test_a_second_writer_is_refused_and_told_who_writes(bucket: RemotePath) -> None:
    with write_lock(bucket / "s"):
        fault = pytest.raises(StoreFault, match=f"process {os.getpid()} on {socket.gethostname()}")
        with fault as told, write_lock(bucket / "s"):
            pass
        assert f"aws s3 rm {bucket / 's' / 'lock'}" in told.value.fix
    with write_lock(bucket / "s"):
        pass
    assert not list(bucket.rglob("*"))


def test_a_lock_is_taken_over_from_a_dead_process_of_this_host_only(bucket: RemotePath) -> None:
    dead = {"pid": 2**22 + 1, "host": socket.gethostname(), "since": "2026"}
    (bucket / "lock").write_bytes(orjson.dumps(dead))
    with write_lock(bucket):
        assert orjson.loads((bucket / "lock").read_bytes())["pid"] == os.getpid()
    (bucket / "lock").write_bytes(orjson.dumps(dead | {"host": "elsewhere"}))
    with pytest.raises(StoreFault, match="elsewhere"), write_lock(bucket):
        pass
    (bucket / "lock").unlink()
    with write_lock(bucket):
        pass


def test_a_lock_that_was_removed_by_hand_and_taken_by_another_is_left_to_it(
    bucket: RemotePath,
) -> None:
    with write_lock(bucket):
        (bucket / "lock").write_bytes(b'{"pid": 1, "host": "elsewhere", "since": "2026"}')
    assert (bucket / "lock").is_file()


def test_what_hinders_the_way_to_the_server_is_told(
    bucket: RemotePath, s3, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreFault, match="no such bucket"):
        RemotePath("s3://never-made/x").read_bytes()
    with pytest.raises(StoreFault, match="no such bucket"):
        RemotePath("s3://never-made/x").exists()
    with pytest.raises(StoreFault, match="no such bucket"):
        RemotePath("s3://never-made/x").write_bytes(b"")
    s3.before = lambda method, path: "403 Forbidden"
    with pytest.raises(StoreFault, match="403") as refused:
        (bucket / "x").read_bytes()
    assert "AWS_ACCESS_KEY_ID" in refused.value.fix
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreFault, match="cannot be reached"):
        RemotePath("s3://nobody-listens/x").read_bytes()


def test_missing_credentials_are_told(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(StoreFault, match="refuses") as told:
        RemotePath("s3://no-credentials/x").read_bytes()
    assert "AWS_ACCESS_KEY_ID" in told.value.fix
