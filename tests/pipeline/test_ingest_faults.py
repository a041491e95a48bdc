"""Claims about an ingest that is interrupted, or refused by disk and permissions: nothing lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pipeline import take_readers
from pipeline.egoexo4d import EgoExo4D
from pipeline.ingest import IngestReport, ingest
from pipeline.ingest_journal import locked_journal
from pipeline.rejects import Reject, read_rejects
from pipeline.take_readers import TakeReader
from pipeline.take_tasks import Task
from stores.errors import StoreFault
from stores.index import ClipIndex, read_index
from stores.recipe import ClipRecipe

RECIPE = ClipRecipe()
NOBODY = 65534
INGEST = """
import sys, time
from pathlib import Path
from pipeline.ingest import ingest
from stores.recipe import ClipRecipe
{before}
print("ready", flush=True)
report = ingest(Path(sys.argv[1]), Path(sys.argv[2]), recipe=ClipRecipe(), workers=1{options})
print(report.digest, report.takes_resumed, dict(report.reasons))
"""


class Stopped(Exception):
    """Stands for Ctrl-C."""


def stop_after(count: int) -> Callable[..., Iterator[Any]]:
    """A track that gives up after so many takes."""

    def track(items: Iterable[Any], /, *, total: int, what: str, unit: str) -> Iterator[Any]:
        for done, item in enumerate(items, start=1):
            yield item
            if done == count:
                raise Stopped

    return track


def start(root: Path, out: Path, *, before: str = "", options: str = "") -> subprocess.Popen:
    """An ingest in its own process, which says `ready` once it has imported everything."""
    code = INGEST.format(before=before, options=options)
    command = [sys.executable, "-c", code, str(root), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": "/tmp"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout and process.stdout.readline() == "ready\n", process.communicate()
    return process


def outcome(process: subprocess.Popen) -> str:
    told, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint
    return told.strip()


@pytest.fixture
def many(root: Any) -> Path:
    """Six takes of three splits."""
    for number in range(6):
        split = ("train", "val", "test")[number % 3]
        root.add(f"cmu_bike{number:02d}_2", split=split)
    return root.write()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_interrupted_ingest_goes_on_where_it_was(many: Path, tmp_path: Path) -> None:
    whole = ingest(many, tmp_path / "a" / "clips.parquet", recipe=RECIPE)
    out = tmp_path / "b" / "clips.parquet"
    with pytest.raises(Stopped):
        ingest(many, out, recipe=RECIPE, workers=1, track=stop_after(4))
    assert not out.exists()
    again = ingest(many, out, recipe=RECIPE)
    assert (again.digest, again.takes_resumed) == (whole.digest, 4)
    assert files_of(out.parent) == files_of(whole.index.parent)


def _interrupted(root: Path, out: Path, **options: Any) -> None:
    with pytest.raises(Stopped):
        ingest(root, out, workers=1, track=stop_after(4), **{"recipe": RECIPE, **options})


def test_finished_takes_of_another_recipe_root_or_rule_do_not_count(
    many: Path, tmp_path: Path
) -> None:
    out = tmp_path / "clips.parquet"
    _interrupted(many, out, recipe=ClipRecipe(stride=2))
    assert ingest(many, out, recipe=RECIPE).takes_resumed == 0
    _interrupted(many, out, category_by="name")
    assert ingest(many, out, recipe=RECIPE).takes_resumed == 0
    moved = many.rename(tmp_path / "moved")
    _interrupted(moved, out)
    moved.rename(many)
    assert ingest(many, out, recipe=RECIPE).takes_resumed == 0


def test_only_the_take_whose_files_changed_is_read_again(root: Any, tmp_path: Path) -> None:
    for number in range(5):
        root.add(f"cmu_bike{number:02d}_2")
    out = tmp_path / "clips.parquet"
    _interrupted(root.write(), out)
    root.takes[1].camera_pose_path.unlink()
    os.utime(root.takes[2].videos / "cam01.mp4", ns=(1, 1))
    again = ingest(root.path, out, recipe=RECIPE)
    assert (again.takes_resumed, again.takes) == (2, 5)
    (out.parent / "fresh").mkdir()
    fresh = ingest(root.path, out.parent / "fresh" / "clips.parquet", recipe=RECIPE)
    assert again.digest == fresh.digest


def test_a_take_that_was_rejected_is_read_again_once_its_files_are_there(
    root: Any, tmp_path: Path
) -> None:
    for number in range(5):
        root.add(f"cmu_bike{number:02d}_2")
    video = root.takes[0].videos / "cam02.mp4"
    body = video.read_bytes()
    video.unlink()
    _interrupted(root.write(), tmp_path / "clips.parquet")
    video.write_bytes(body)
    report = ingest(root.path, tmp_path / "clips.parquet", recipe=RECIPE)
    assert (report.takes, report.takes_resumed, report.rejects) == (5, 3, ())


@pytest.mark.parametrize("damage", [b"", b"ARROW1\x00\x00 and no more"])
def test_a_finished_take_whose_record_the_power_took_is_read_again(
    many: Path, tmp_path: Path, damage: bytes
) -> None:
    out = tmp_path / "clips.parquet"
    _interrupted(many, out)
    record = sorted(out.with_name("clips.parquet.journal").glob("*.arrow"))[0]
    record.write_bytes(damage)
    assert ingest(many, out, recipe=RECIPE).takes_resumed == 3


def test_killed_at_any_moment_and_run_again_the_list_is_the_same(
    many: Path, tmp_path: Path
) -> None:
    whole = ingest(many, tmp_path / "whole" / "clips.parquet", recipe=RECIPE)
    out, moments = tmp_path / "killed" / "clips.parquet", random.Random(5)
    for _ in range(5):
        process = start(many, out)
        time.sleep(moments.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if out.exists():  # what a killed run leaves is a whole list, or none
            assert read_index(out).digest == whole.digest
    digest, *_ = outcome(start(many, out)).split()
    assert digest == whole.digest
    assert files_of(out.parent) == files_of(whole.index.parent)


def test_takes_finished_before_a_kill_are_not_read_again(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips.parquet"
    slow = "def slow(items, /, *, total, what, unit):\n    for item in items:\n"
    slow += "        yield item\n        print('take', flush=True)\n        time.sleep(0.3)"
    process = start(many, out, before=slow, options=", track=slow")
    assert process.stdout
    for _ in range(3):
        assert process.stdout.readline() == "take\n"
    process.kill()
    process.communicate()
    assert ingest(many, out, recipe=RECIPE).takes_resumed == 3


def test_two_ingests_of_one_list_do_not_run_at_once(many: Path, tmp_path: Path) -> None:
    def second(items: Iterable[Any], /, *, total: int, what: str, unit: str) -> Iterator[Any]:
        with pytest.raises(StoreFault, match="Somebody else"):
            ingest(many, tmp_path / "clips.parquet", recipe=RECIPE)
        yield from items

    assert ingest(many, tmp_path / "clips.parquet", recipe=RECIPE, track=second).takes == 6


@pytest.mark.parametrize("what", ["journal", "index"])
def test_a_full_disk_leaves_the_old_list_and_is_told(many: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "clips.parquet"
    ingest(many, out, recipe=RECIPE)
    room = out.stat().st_size - 1 if what == "index" else 3000
    old = ingest(many, out, recipe=ClipRecipe(frames=5, stride=8))
    before = out.read_bytes()
    old_rejects = read_rejects(out.with_name("rejects.parquet"))
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))"
    process = start(many, out, before=limit)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "cannot be written" in complaint and "File too large" in complaint, complaint
    assert out.read_bytes() == before and read_index(out).digest == old.digest
    assert read_rejects(out.with_name("rejects.parquet")) == old_rejects
    after = ingest(many, out, recipe=RECIPE)
    assert (after.takes, after.takes_resumed) == (6, 6 if what == "index" else 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
@pytest.mark.parametrize("closed", ["cam02.mp4", "gopro_calibs.csv", "camera_pose", "folder"])
def test_a_file_closed_to_us_is_a_row_and_the_others_go_on(root: Any, closed: str) -> None:
    root.add("cmu_bike01_2")
    take = root.add("cmu_bike01_3")
    path = {
        "cam02.mp4": take.videos / "cam02.mp4",
        "gopro_calibs.csv": take.folder / "trajectory" / "gopro_calibs.csv",
        "camera_pose": take.camera_pose_path,
        "folder": take.videos,
    }[closed]
    path.chmod(0o000)
    with TemporaryDirectory() as name:  # pytest's own folder is closed to others
        open_to_all = Path(name)
        open_to_all.chmod(0o777)
        moved = Path(shutil.move(root.write(), open_to_all / "egoexo"))
        told, rejects, index = _ingest_as_nobody(moved, open_to_all / "out")
    (reject,) = rejects
    assert reject.take_name == "cmu_bike01_3"
    assert reject.reason in {"unreadable_file", "unreadable_video"}, told
    assert "Permission denied" in reject.detail
    assert len({row.take_name for row in index.rows}) == 1


def _ingest_as_nobody(root: Path, folder: Path) -> tuple[str, list[Reject], ClipIndex]:
    folder.mkdir()
    folder.chmod(0o777)
    # The interpreter's own files may be closed to nobody too: a first run imports them.
    warm = f"ingest(Path(sys.argv[1]), Path({str(folder / 'warm' / 'c.parquet')!r}), workers=1)"
    before = f"{warm}\nimport os\nos.setuid({NOBODY})"
    told = outcome(start(root, folder / "clips.parquet", before=before))
    return told, read_rejects(folder / "rejects.parquet"), read_index(folder / "clips.parquet")


def test_processes_and_threads_make_one_list(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(folder: str, **options: Any) -> tuple[dict[str, bytes], IngestReport]:
        report = ingest(many, tmp_path / folder / "clips.parquet", recipe=RECIPE, **options)
        return files_of(tmp_path / folder), report

    alone, report = made("alone", workers=1)
    assert made("threads", workers=4)[0] == alone
    monkeypatch.setattr(take_readers, "FEW_TAKES", 0)
    by_processes, again = made("processes", workers=2)
    assert by_processes == alone
    assert (again.digest, again.takes) == (report.digest, 6)


def test_memory_waits_for_few_takes_however_many_there_are(
    many: Path,
    tmp_path: Path,
) -> None:
    entries = EgoExo4D(many).takes()
    drawn: list[int] = []

    def tasks() -> Iterator[Task]:
        for number in range(60):
            drawn.append(number)
            yield Task(entries[number % 6])

    with locked_journal(tmp_path / "clips.parquet", {}) as journal:
        reader = TakeReader(EgoExo4D(many), RECIPE, journal)
        read = take_readers.read_all(reader, tasks(), total=60, workers=2)
        for number, is_new in enumerate(read):
            assert len(drawn) <= number + 8
            assert is_new or number >= 1
    assert not list(tmp_path.glob("clips.parquet*"))
