"""Claims about stores on S3, over HTTP: they are the local ones, and nothing is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
from typer.testing import CliRunner

from cli import app
from stores.arrays import group_rows, grow_group, shard_path
from stores.derived import finished_derived, write_derived
from stores.errors import StoreFault
from stores.fork import fork, read_origin
from stores.garbage import gc
from stores.history import diff, log, tag, untag
from stores.index import ClipRow
from stores.journal import read_entries, write_entry
from stores.lock import write_lock
from stores.place import RemotePath, bytes_below
from stores.schema import ARRAYS
from stores.stream import ClipStream
from stores.tar_store import export_tar, import_tar
from stores.verify import verify_store
from stores.version import StoreRecipe, list_versions, read_head
from stores.zarr_store import commit, create_store, head_clips, next_shard, open_store, write_shard

READS = ("exo_latents", "ego_latents[0]", "ego_rays")
DIGEST = "ab" * 8


def upload(local: Path, remote: RemotePath) -> RemotePath:
    """The folder, file by file, as `aws s3 cp --recursive` does it."""
    for path in local.rglob("*"):
        if path.is_file():
            (remote / str(path.relative_to(local))).write_bytes(path.read_bytes())
    return remote


@pytest.fixture
def remote(store_path: Path, bucket: RemotePath) -> RemotePath:
    """A copy of the committed store of seven clips."""
    return upload(store_path, bucket / "copy.store")


def first_frames(store, clip_ids):
    for clip_id in clip_ids:
        latents = store.read("exo_latents", [clip_id])[0, :, 0]
        yield clip_id, {"first_latent": latents[0], "condition": latents}


def test_a_store_written_to_s3_is_the_one_written_to_a_disk(
    bucket: RemotePath, store_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Callable
) -> None:
    path = bucket / "some" / "bike.store"
    first = add_clips(path, rows[:5], arrays)
    second = add_clips(path, rows[5:], arrays)
    store, local = open_store(str(path)), open_store(store_path)
    assert second == store.hash == local.hash
    assert open_store(f"{path}@{first[:6]}").hash == first
    assert verify_store(store).damaged == ()
    for name in ARRAYS:
        ids = [row.clip_id for row in rows if name in arrays[row.clip_id]]
        assert (store.read(name, ids) == local.read(name, ids)).all()
    assert not (path / "lock").exists() and not read_entries(path / "journal")
    info = store.info()
    assert info["bytes"] == bytes_below(path) and info["path"] == str(path)


def test_a_copy_opens_and_streams_the_same_batches(remote: RemotePath, store_path: Path) -> None:
    streams = [
        ClipStream(open_store(where), READS, batch_size=2, seed=3, threads=2)
        for where in (store_path, remote)
    ]
    for _ in range(4):
        here, there = map(next, streams)
        assert here.clip_ids == there.clip_ids
        assert all(torch.equal(here[read], there[read]) for read in READS)
    assert streams[0].order_digest == streams[1].order_digest
    for stream in streams:
        stream.close()


def test_history_is_read_and_tagged_at_a_url(remote: RemotePath, store_path: Path) -> None:
    (entry,) = log(str(remote))
    assert diff(store_path, str(remote)).is_same
    assert tag(str(remote), "paper-v1") == entry.hash == open_store(f"{remote}@paper-v1").hash
    assert log(f"{remote}@paper-v1")[0].tags == ("paper-v1",)
    assert untag(str(remote), "paper-v1") == entry.hash
    with pytest.raises(StoreFault, match="not known"):
        open_store(f"{remote}@paper-v1")


def test_a_read_of_frame_0_asks_for_its_bytes_alone_once_a_shard_is_open(
    remote: RemotePath, s3, rows: list[ClipRow]
) -> None:
    store, ids = open_store(remote), [row.clip_id for row in rows[:3]]
    s3.requests.clear()
    store.read("exo_latents", ids, first_frame=True)
    layout = store.reader("exo_latents").layout
    row = layout.row_bytes + 4 * layout.pieces
    index, witness, *pieces = [request.bytes for request in s3.requests]
    assert (index, witness) == (layout.index_bytes, row)  # once a shard: is it this one?
    assert pieces == [layout.piece_bytes + 4] * 3
    s3.requests.clear()
    store.read("exo_latents", ids)
    assert [request.bytes for request in s3.requests] == [row] * 3


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize(
    "harm",
    [flip, lambda data: data[:-1], lambda data: data[:9], lambda data: b"", None],
    ids=["a bit flipped", "cut", "cut short", "empty", "deleted"],
)
def test_damage_is_told_with_the_clips_that_it_hits(
    remote: RemotePath, rows: list[ClipRow], harm: Callable[[bytes], bytes] | None
) -> None:
    path = shard_path(remote / "arrays", ARRAYS["ego_latents"], 1)
    path.unlink() if harm is None else path.write_bytes(harm(path.read_bytes()))
    store, hit = open_store(remote), [row.clip_id for row in rows[3:5]]
    with pytest.raises(StoreFault, match=f"ego_latents of .*{hit[0]}") as fault:
        store.read("ego_latents", hit)
    assert str(path) in str(fault.value)
    found = {(row.clip_id, row.array) for row in verify_store(store).damaged}
    assert found == {(c, "ego_latents") for c in (hit[:1] if harm is flip else hit)}


def test_a_server_that_goes_away_is_no_damage(remote: RemotePath, s3, rows: list[ClipRow]) -> None:
    store = open_store(remote)
    s3.before = lambda method, path: "503 Service Unavailable"
    for read in (lambda: store.read("ego_rays", [rows[0].clip_id]), lambda: verify_store(store)):
        with pytest.raises(StoreFault, match="cannot be reached"):
            read()


@pytest.mark.parametrize(("name", "said"), [("store.json", "not a store"), ("HEAD", "no clips")])
def test_what_is_no_store_is_told(remote: RemotePath, name: str, said: str) -> None:
    (remote / name).unlink()
    with pytest.raises(StoreFault, match=said):
        open_store(str(remote))


def test_a_manifest_edited_or_lost_is_told(remote: RemotePath) -> None:
    (path,) = (remote / "versions").glob("*.parquet")
    path.write_bytes(flip(path.read_bytes()))
    with pytest.raises(StoreFault, match="altered"):
        open_store(remote)
    path.unlink()
    with pytest.raises(StoreFault, match=r"incomplete.*\n(.*\n)*.*no s3://"):
        open_store(remote)


def test_a_commit_is_refused_if_somebody_else_has_committed_meanwhile(
    remote: RemotePath, s3, rows: list[ClipRow]
) -> None:
    head, other, clips = read_head(remote), "0" * 64, head_clips(remote)

    def interfere(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/HEAD"):  # the last moment: after our own look
            s3.before = lambda method, path: None
            (remote / "HEAD").write_bytes(f"{other}\n".encode())

    s3.before = interfere
    relabelled = [type(clips[0])(**{**vars(clips[0]), "split": "val"})]
    with pytest.raises(StoreFault, match="Somebody else has committed"):
        commit(remote, relabelled, command="test", index_digest="cc")
    assert read_head(remote) == other and open_store(f"{remote}@{head}").hash == head


def test_a_shard_that_another_writer_has_put_is_not_overwritten(
    bucket: RemotePath, recipe: StoreRecipe, rows: list[ClipRow], arrays: dict
) -> None:
    path, name = bucket / "s", "ego_latents"
    create_store(path, recipe, clips_per_shard=3)
    write_shard(path, 0, rows[:1], {name: [arrays[rows[0].clip_id][name]]})
    assert next_shard(path) == 1  # though no version has it
    with pytest.raises(StoreFault, match="in spite of the lock"):
        write_shard(path, 0, rows[1:2], {name: [arrays[rows[1].clip_id][name]]})
    write_shard(path, 0, rows[:1], {name: [arrays[rows[0].clip_id][name]]})


def test_arrays_that_two_lengthen_at_once_get_the_greater_length(remote: RemotePath, s3) -> None:
    group = remote / "arrays"

    def interfere(method: str, path: str) -> None:
        if method == "PUT":
            s3.before = lambda method, path: None
            grow_group(group, ["ego_rays"], 30)

    s3.before = interfere
    grow_group(group, ["ego_rays"], 21)
    assert group_rows(group, ["ego_rays"]) == 30


def test_a_writer_that_fails_leaves_no_shard(
    bucket: RemotePath, recipe: StoreRecipe, rows: list[ClipRow], arrays: dict
) -> None:
    create_store(bucket / "s", recipe, clips_per_shard=3)
    before, given = set(bucket.rglob("*")), arrays[rows[0].clip_id]
    good = {"exo_latents": [given["exo_latents"]] * 2}
    with pytest.raises(StoreFault, match="cannot be stored"):
        bad = [given["ego_rays"], np.full_like(given["ego_rays"], np.nan)]
        write_shard(bucket / "s", 0, rows[:2], good | {"ego_rays": bad})
    assert set(bucket.rglob("*")) == before
    write_shard(bucket / "s", 0, rows[:1], {name: [given[name]] for name in given})


def test_a_writer_that_is_killed_while_it_uploads_loses_nothing_that_was_committed(
    remote: RemotePath, s3, rows: list[ClipRow]
) -> None:
    code = (
        "import sys; from stores.lock import write_lock; from stores.place import place\n"
        "from stores.atomic import whole_file\n"
        "store = place(sys.argv[1])\n"
        "with write_lock(store), whole_file(store / 'big') as file: file.write(bytes(2**20))"
    )
    head, files = read_head(remote), set(remote.rglob("*"))
    writer = subprocess.Popen([sys.executable, "-c", code, str(remote)], env=dict(os.environ))

    def kill(method: str, path: str) -> str | None:
        if not path.endswith("/big"):
            return None
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        return "400 Bad Request"  # as S3 does with a body that is cut short

    s3.before = kill
    assert writer.wait(timeout=60) == -signal.SIGKILL
    s3.before = lambda method, path: None
    assert set(remote.rglob("*")) - files == {remote / "lock"}
    assert read_head(remote) == head and verify_store(open_store(remote)).damaged == ()
    with write_lock(remote):  # its process is dead
        pass


def test_derived_arrays_are_written_beside_a_remote_store_and_go_on(
    remote: RemotePath, store_path: Path
) -> None:
    store, ids = open_store(remote), open_store(remote).clip_ids

    def interrupted():
        yield from first_frames(store, ids[:4])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_derived(store, "first_frames", DIGEST, interrupted(), {})
    done = finished_derived(store, "first_frames", DIGEST)
    assert len(done) == 3
    write_derived(store, "first_frames", DIGEST, first_frames(store, ids), {})
    local = open_store(store_path)
    write_derived(local, "first_frames", DIGEST, first_frames(local, ids), {})
    for array in ("first_latent", "condition"):
        here, there = (s.derived("first_frames").read(array, ids) for s in (local, store))
        assert (here == there).all()
    assert store.info()["derived"] == [f"first_frames-{DIGEST}"]


def test_garbage_is_found_and_removed_as_on_a_disk(
    remote: RemotePath, store_path: Path, recipe: StoreRecipe, rows: list[ClipRow], arrays: dict
) -> None:
    for path in (store_path, remote):
        row = arrays[rows[0].clip_id]["ego_rays"]
        write_shard(path, 7, rows[:1], {"ego_rays": [row]})
        (path / "journal" / "000007.json").unlink()
        (path / "versions" / f"{'0' * 64}.parquet").write_bytes(b"no record")
        folder = path / "derived" / f"first_frames-{DIGEST}"
        folder.mkdir(parents=True, exist_ok=True)
    local, found = (gc(path, dry_run=True) for path in (store_path, remote))
    assert found == local and {g.kind for g in found.found} == {"shard", "manifest"}
    before = {path for path in remote.rglob("*")}
    assert gc(remote, dry_run=False).removed
    gone = {str(path.relative_to(remote)) for path in before - set(remote.rglob("*"))}
    assert gone == {garbage.path for garbage in found.found}
    assert verify_store(open_store(remote)).damaged == ()


def test_derived_arrays_that_no_version_needs_go_whole(remote: RemotePath) -> None:
    store = open_store(remote)
    folder = write_derived(
        store, "first_frames", DIGEST, first_frames(store, store.clip_ids[:2]), {}
    )
    (entry,) = read_entries(folder / "rows")
    write_entry(folder / "rows", replace(entry, clip_digests=("00", "00")))
    assert [g.kind for g in gc(remote, dry_run=False).found] == ["derived"]
    assert not folder.exists()


def test_a_store_is_forked_to_a_url(remote: RemotePath, bucket: RemotePath) -> None:
    report = fork(str(remote), bucket / "fork.store", {"clips.stride": 2})
    origin = read_origin(bucket / "fork.store")
    assert origin is not None and origin.store == report.origin == open_store(remote).hash
    assert list_versions(bucket / "fork.store") == []


def test_tars_at_a_url_open_and_are_imported(
    store_path: Path, bucket: RemotePath, rows: list[ClipRow]
) -> None:
    local, out = open_store(store_path), bucket / "bike.tars"
    report = export_tar(local, out, clips_per_tar=3)
    assert (report.shards_new, export_tar(local, out, clips_per_tar=3).shards_new) == (3, 0)
    store, ids = open_store(str(out)), [row.clip_id for row in rows]
    assert store.hash == local.hash and verify_store(store).damaged == ()
    assert (store.read("ego_rays", ids) == local.read("ego_rays", ids)).all()
    (out / "index.parquet").unlink()
    assert import_tar(str(out), bucket / "again.store", clips_per_shard=3) == local.hash
    assert verify_store(open_store(bucket / "again.store")).damaged == ()
    path = out / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(StoreFault, match=r"shard-000001\.tar"):
        import_tar(str(out), bucket / "third.store")


def test_the_shell_takes_urls(remote: RemotePath, store_path: Path, bucket: RemotePath) -> None:
    def run(*words: object) -> tuple[int, dict]:
        done = CliRunner().invoke(app, ["store", *map(str, words), "--json"])
        return done.exit_code, orjson.loads(done.stdout) if done.stdout else {}

    code, info = run("info", remote)
    assert (code, info["hash"], info["path"]) == (0, read_head(store_path), str(remote))
    assert [entry["hash"] for entry in run("log", remote)[1]["versions"]] == [info["hash"]]
    assert run("verify", remote)[1]["damaged"] == []
    assert run("diff", store_path, remote)[0] == 0
    assert run("gc", remote)[1]["found"] == []
    assert run("export", store_path, "--out", bucket / "tars")[0] == 0
    assert run("import", bucket / "tars", "--store", bucket / "b")[1]["hash"] == info["hash"]
    assert run("fork", remote, bucket / "c", "--set", "clips.stride=2")[0] == 0
    assert run("info", bucket / "nothing")[0] == 2
