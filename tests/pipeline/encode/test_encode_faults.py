"""Faults injected into an encode: videos, kills, signals, full disks, workers that are lost."""

import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import orjson
import pytest
from distributed import Client

from pipeline.encode import encode_latents, store_recipe
from pipeline.run_ahead import run_ahead
from stores.errors import StoreFault
from stores.index import ClipRow, read_index
from stores.journal import begin_run, claim_shards, end_run, is_current
from stores.verify import verify_store
from stores.zarr_store import create_store, open_store

SECONDS = 60.0


@pytest.fixture(scope="module")
def whole(takes: Any) -> str:
    """Hash of an encode that nothing disturbed."""
    return takes.encode("whole", workers=2).hash


def command(takes: Any, name: str, *more: str) -> list[str]:
    """The command as a user runs it."""
    options = ["--store", str(takes.folder / name), "--vae", "tiny", "--device", "cpu", *more]
    code = "from cli import app; app()"
    return [sys.executable, "-c", code, "encode-latents", str(takes.index()), *options]


def run(takes: Any, name: str, *more: str) -> subprocess.Popen:
    recipe = store_recipe(read_index(takes.index()), "tiny", "cpu")
    create_store(takes.folder / name, recipe, clips_per_shard=1)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(takes, name, *more), **pipes)


def further(process: subprocess.Popen, store: Path, entries: int) -> bool:
    """True once more than `entries` shards are finished, or the process has ended."""
    return process.poll() is not None or len(list(store.glob("journal/*.json"))) > entries


def wait_for(happened: Any, seconds: float = SECONDS) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.01)


def keyed_video(path: Path, hw: tuple[int, int], frames: int) -> None:
    """A video whose frames can be read up to where its file is cut."""
    noise = np.random.default_rng(7)
    options = {"movflags": "faststart"}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *hw, "yuv420p", 2
        for _ in range(frames):
            image = noise.integers(0, 255, (*hw, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def with_exo_video(row: ClipRow, video: str) -> ClipRow:
    assert row.exos[1] is not None
    return replace(row, exos=(row.exos[0], replace(row.exos[1], video=video)))


def test_a_video_cut_in_the_middle_costs_the_clips_that_need_what_is_missing(takes: Any) -> None:
    video = "takes/take_a/cut.mp4"
    path = takes.folder / video
    keyed_video(path, (36, 64), 30)
    rows = [with_exo_video(row, video) for row in takes.rows[:3]]
    uncut, data = takes.encode("uncut", rows), path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.5)])
    report = takes.encode("cut", rows, clips_per_shard=64)
    lost = {clip_id for group in report.failed for clip_id in group.clip_ids}
    assert lost == {rows[1].clip_id, rows[2].clip_id}
    store, other = (open_store(takes.folder / name) for name in ("cut", "uncut"))
    assert store.row(rows[0].clip_id).digests == other.row(rows[0].clip_id).digests
    path.write_bytes(data)
    mended = takes.encode("cut", rows, clips_per_shard=64)
    assert (mended.hash, mended.failed) == (uncut.hash, ())


def test_a_camera_fault_costs_its_clip(takes: Any) -> None:
    rows = list(takes.rows[:3])
    skewed = rows[1].ego.world_from_cam.copy()
    skewed[3, 0, 0] = 2.0
    rows[1] = replace(rows[1], ego=replace(rows[1].ego, world_from_cam=skewed))
    for name, size in (("skewed", 2), ("skewed in one", 64)):
        report = takes.encode(name, rows, clips_per_shard=size)
        (failed,) = report.failed
        assert failed.clip_ids == (rows[1].clip_id,) and failed.attempts == 2
        assert report.hash == takes.encode("without", [rows[0], rows[2]]).hash
        assert verify_store(open_store(takes.folder / name)).damaged == ()


def test_an_encode_killed_at_any_moment_goes_on_and_ends_the_same(takes: Any, whole: str) -> None:
    moments, folder = random.Random(0), takes.folder / "killed often"
    for _ in range(3):
        entries = len(list(folder.glob("journal/*.json")))
        process = run(takes, "killed often", "--workers", "2")
        wait_for(partial(further, process, folder, entries))
        time.sleep(moments.random() * 0.2)
        process.kill()
        process.communicate()
    report = takes.encode("killed often")
    assert report.hash == whole
    assert verify_store(open_store(folder)).damaged == ()
    assert not list(folder.rglob("*.partial"))


def test_sigterm_stops_cleanly_and_the_rest_is_done_later(takes: Any, whole: str) -> None:
    name = "stopped by SIGTERM"
    process = run(takes, name, "--workers", "1")
    wait_for(lambda: list((takes.folder / name).glob("journal/*.json")))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode in (130, 0)  # 0: the signal came after the last shard
    assert "Traceback" not in said
    assert not list((takes.folder / name).rglob("*.partial"))
    assert not (takes.folder / name / "lock").exists()
    assert takes.encode(name).hash == whole


@contextmanager
def files_of_at_most(most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_size_limit_is_told_and_what_was_finished_is_kept(takes: Any, whole: str) -> None:
    # no shard fits
    with files_of_at_most(30_000), pytest.raises(StoreFault, match="cannot be written") as fault:
        takes.encode("full")
    assert "same command again" in str(fault.value.fix)
    assert takes.encode("full").hash == whole
    index = takes.index([replace(row, category="Music") for row in takes.rows])
    # no manifest fits
    with files_of_at_most(1_000), pytest.raises(StoreFault, match="disk refuses"):
        encode_latents(index, takes.folder / "full", vae_spec="tiny")
    assert takes.encode("full").hash == whole


@contextmanager
def dask(*arguments: str) -> Iterator[subprocess.Popen]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    line = [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]]
    process = subprocess.Popen([*line, "--no-dashboard"], **quiet)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    note = folder / f"scheduler-{time.monotonic_ns()}.json"
    where = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(note))
    with dask("dask_scheduler", *where) as process:
        wait_for(note.exists)
        yield orjson.loads(note.read_bytes())["address"], process


@contextmanager
def worker(address: str) -> Iterator[subprocess.Popen]:
    one = ("--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", "--memory-limit", "0")
    with Client(address, set_as_default=False) as client:
        known = len(client.scheduler_info()["workers"])
        with dask("dask_worker", address, *one) as process:
            client.wait_for_workers(known + 1, timeout=SECONDS)
            client.close()
            yield process


def killed_after_the_first_shard(process: subprocess.Popen, store: Path) -> None:
    def wait_and_kill() -> None:
        wait_for(lambda: list(store.glob("journal/*.json")))
        process.kill()

    threading.Thread(target=wait_and_kill).start()


def test_workers_of_another_process_write_the_same_store_and_one_of_them_may_die(
    takes: Any, whole: str
) -> None:
    with scheduler(takes.folder) as (address, _), worker(address) as dying, worker(address):
        killed_after_the_first_shard(dying, takes.folder / "remote")
        report = takes.encode("remote", scheduler=address)
    assert (report.hash, report.failed) == (whole, ())


def test_a_run_whose_workers_are_all_lost_ends_with_a_fault_and_goes_on_later(
    takes: Any, whole: str
) -> None:
    with scheduler(takes.folder) as (address, _), worker(address) as only:
        killed_after_the_first_shard(only, takes.folder / "alone")
        with pytest.raises(StoreFault, match="all shards that were finished are kept") as fault:
            takes.encode("alone", scheduler=address, patience_seconds=2.0, clips_per_shard=1)
    assert "worker" in str(fault.value.expected)
    report = takes.encode("alone")
    assert report.hash == whole and report.clips_resumed >= 1


def test_a_scheduler_that_goes_away_is_a_fault_and_nothing_is_lost(takes: Any, whole: str) -> None:
    with scheduler(takes.folder) as (address, process), worker(address):
        killed_after_the_first_shard(process, takes.folder / "headless")
        with pytest.raises(StoreFault, match="all shards that were finished are kept"):
            takes.encode("headless", scheduler=address, clips_per_shard=1)
    report = takes.encode("headless")
    assert report.hash == whole and report.clips_resumed >= 1


def test_an_address_without_a_scheduler_is_told(takes: Any) -> None:
    with pytest.raises(StoreFault, match="No Dask scheduler answers"):
        takes.encode("nobody", scheduler="tcp://127.0.0.1:9", patience_seconds=1.0)


def test_tasks_of_a_run_that_is_over_stop_and_have_numbers_of_their_own(tmp_path: Path) -> None:
    first = begin_run(tmp_path, 3)
    claim_shards(tmp_path, first, 9)
    assert first.first_shard == 3 and is_current(tmp_path, first.token)
    second = begin_run(tmp_path, 4)
    assert second.first_shard == 9
    assert not is_current(tmp_path, first.token) and is_current(tmp_path, second.token)
    claim_shards(tmp_path, second, 12)
    end_run(tmp_path, second)
    assert not is_current(tmp_path, second.token)
    assert begin_run(tmp_path, 0).first_shard == 12


def test_what_runs_ahead_is_bounded_keeps_its_order_and_its_faults_and_ends() -> None:
    made: list[int] = []
    closed = threading.Event()

    def numbers() -> Any:
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            closed.set()

    threads = threading.active_count()
    with run_ahead(numbers(), 3) as ready:
        assert next(ready) == 0
        time.sleep(0.2)
        assert len(made) <= 6
    assert closed.is_set() and threading.active_count() == threads

    def faulty() -> Any:
        yield 1
        raise OSError("here")

    with run_ahead(faulty(), 3) as ready:
        assert next(ready) == 1
        with pytest.raises(OSError, match="here"):
            next(ready)
