"""Ingest: a take's metadata against plain JSON parsing, takes.json's opening, memory, all cores."""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from benchmarks.ingest_root import real_size_root, write_lists
from benchmarks.rows import Row, interleaved_seconds
from pipeline.camera_pose import ego_poses, exo_pose, read_camera_pose
from pipeline.egoexo4d import EgoExo4D
from stores.recipe import ClipRecipe

FEW, MANY = 100, 1000
SECONDS = 4.0
"""Of the takes of the memory test: long enough for clips, short enough for a thousand."""
ROUNDS = 15
ENTRIES = 5000
_CHILD = """
import resource, sys, time
from pathlib import Path
from pipeline.ingest import ingest
if __name__ == "__main__":
    workers = int(sys.argv[3]) or None
    began = time.perf_counter()
    report = ingest(Path(sys.argv[1]), Path(sys.argv[2]), workers=workers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(report.takes, time.perf_counter() - began, peak / 1024)
"""


def run() -> list[Row]:
    """All rows; about two minutes."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        rows = [*_one_take(folder / "one"), *_takes_json(folder / "lists")]
        return rows + _memory_and_cores(folder)


def _one_take(folder: Path) -> list[Row]:
    root = real_size_root(folder, takes=1)
    dataset, recipe = EgoExo4D(root), ClipRecipe()
    (entry,) = dataset.takes()
    (path,) = (root / "annotations" / "ego_pose").glob("*/camera_pose/*.json")

    def poses() -> None:
        cameras = read_camera_pose(root, entry.take_uid) or {}
        for cam_id, camera in cameras.items():
            if isinstance(camera["camera_extrinsics"], dict):
                ego_poses(cameras, cam_id, 1110)
            else:
                exo_pose(cameras, cam_id)

    seconds = interleaved_seconds(
        {
            "parse": lambda: orjson.loads(path.read_bytes()),
            "poses": poses,
            "take": lambda: dataset.load(entry, recipe),
        },
        ROUNDS,
    )
    size = path.stat().st_size
    note = f"{size / 1e6:.2f} MB, 1,108 poses; parsed alone in {1e3 * seconds['parse']:.2f} ms"
    return [
        Row("poses of a take, per plain parse", _ratio(seconds, "poses"), "", 0.5, None, note),
        Row(
            "whole take (poses, lenses, five videos' headers), per plain parse",
            *(_ratio(seconds, "take"), "", None, None),
            note=f"{1e3 * seconds['take']:.2f} ms",
        ),
    ]


def _ratio(seconds: dict[str, float], what: str) -> float:
    return seconds["parse"] / seconds[what]


def _takes_json(folder: Path) -> list[Row]:
    root = real_size_root(folder, takes=1, seconds=2.0)
    (entry,) = orjson.loads((root / "takes.json").read_bytes())
    entry["objects"] = [{"uid": "0" * 36, "name": f"thing {n}"} for n in range(8)]
    names = [(f"cmu_bike{n:04d}_1", f"{n:036d}") for n in range(ENTRIES)]
    write_lists(root, [entry | {"take_name": name, "take_uid": uid} for name, uid in names])
    seconds = interleaved_seconds({"open": EgoExo4D(root).takes}, 3)["open"]
    note = f"{(root / 'takes.json').stat().st_size / 1e6:.1f} MB"
    return [Row(f"takes.json of {ENTRIES} takes opened in", seconds, "s", None, 2.0, note)]


def _memory_and_cores(folder: Path) -> list[Row]:
    cores = len(os.sched_getaffinity(0))
    root = real_size_root(folder / "many", takes=MANY, seconds=SECONDS)
    entries = orjson.loads((root / "takes.json").read_bytes())
    write_lists(root, entries[:FEW])
    _, few_mib = _ingested(root, folder / "few.parquet", 1)
    write_lists(root, entries)
    alone_s, many_mib = _ingested(root, folder / "alone.parquet", 1)
    all_s, _ = _ingested(root, folder / "all.parquet", 0)
    note = f"{few_mib:.0f} MiB for {FEW}, {many_mib:.0f} MiB for {MANY}"
    rate = f"{MANY / alone_s:.0f} takes/s on one core, {MANY / all_s:.0f} on {cores}"
    return [
        Row(f"peak memory, {MANY} takes per {FEW}", many_mib / few_mib, "", None, 1.1, note),
        Row(f"speed of {cores} cores per one", alone_s / all_s, "", None, None, rate),
    ]


def _ingested(root: Path, out: Path, workers: int) -> tuple[float, float]:
    """Seconds and peak MiB of an ingest in a process of its own; 0 workers are all cores."""
    script = root.with_name("ingest_child.py")  # a file: processes that it starts import it
    script.write_text(_CHILD)
    began = time.perf_counter()
    told = subprocess.run(
        [sys.executable, str(script), str(root), str(out), str(workers)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    ).stdout
    takes, seconds, mib = told.split()
    if not int(takes):
        raise RuntimeError(f"no take was read in {time.perf_counter() - began:.0f} s")
    return float(seconds), float(mib)
