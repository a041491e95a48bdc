"""The verb `simulate`: a folder of Ego-Exo4D's own shape, filled with simulated takes."""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from pipeline.processes import death_of_one, take_processes
from pipeline.simulate.calibration import (
    camera_pose,
    closed_loop_trajectory,
    gopro_calibs,
    online_calibration,
    timesync,
)
from pipeline.simulate.clock import take_clock
from pipeline.simulate.entries import capture_entry, frames_of, splits_file, take_entry, video_name
from pipeline.simulate.film import Filming, film
from pipeline.simulate.rig import Rig, build_rig
from pipeline.simulate.scene import build_scene, eye_poses
from pipeline.simulate.traits import (
    FRAMES_PER_SECOND,
    SPLIT_NAMES,
    SPLITS,
    TakePlan,
    plan_take,
    stray_uid,
)
from stores.errors import UserFault
from stores.progress import Track, silent

FORMAT = 2
"""Of what is drawn and written; a folder of another one cannot be continued."""
MARKER = "simulated.json"
LEAST_FRAMES = 4
SMALL_VIDEOS = Path("frame_aligned_videos/downscaled/448")
DROPPED, WITHOUT_VIDEO = 1000, 1001
"""Numbers of the two faulty takes, out of the way of real ones."""


class SimulationFault(UserFault, ValueError):
    """A simulation that cannot be made as asked, or not in that folder."""


@dataclass(frozen=True)
class SimulatedRoot:
    """What `simulate_root` left on disk."""

    root: Path
    take_names: tuple[str, ...]
    """Takes with videos."""
    takes_new: int
    """How many of them this call has drawn."""
    frames_new: int


def simulate_root(
    out: Path,
    *,
    takes: int,
    seconds: float,
    seed: int,
    device: str = "cpu",
    height: int = 448,
    samples: int = 2,
    faults: bool = True,
    splits: Sequence[str] = SPLITS,
    workers: int = 1,
    track: Track = silent,
) -> SimulatedRoot:
    """A root of takes of so many seconds; an interrupted or smaller one is continued.

    A take depends on seed, seconds, height and samples (a pixel's side), and on its number, never
    on the device, on how many takes there are or on how many `workers` (processes) draw them.
    Takes go through `splits` and, in fours, through the categories. `faults` adds, to takes.json
    alone, a dropped take, one whose videos are missing, and a uid in the splits that no take has.
    Raises SimulationFault if the folder holds anything else, the numbers make no videos, or a
    process dies.
    """
    frames = frames_of(seconds)
    _check_numbers(takes, frames, height, samples, workers)
    _check_splits(splits)
    settings = {
        "format": FORMAT, "seed": seed, "frames": frames, "height": height, "samples": samples,
        "faults": faults, "splits": list(splits),
    }  # fmt: skip
    _claim(out, settings)
    plans = [plan_take(seed, index, frames, tuple(splits)) for index in range(takes)]
    new = [plan for plan in plans if not _take_folder(out, plan).exists()]
    written = _write_takes(out, new, Filming(height, samples, device), workers)
    for _ in track(written, total=len(new), what="simulate", unit="takes"):
        pass
    absent = _faulty(seed) if faults else []
    for plan in absent[1:]:
        _write_camera_files(out, plan, _take_folder(out, plan))
    _write_metadata(out, [*plans, *absent], stray_uid(seed) if faults else None)
    names = tuple(plan.take_name for plan in plans)
    return SimulatedRoot(out, names, len(new), frames * len(new))


def _check_numbers(takes: int, frames: int, height: int, samples: int, workers: int) -> None:
    least_of_one = min(takes, samples, workers)
    if least_of_one < 1 or frames < LEAST_FRAMES or height < 16 or height % 2:
        raise SimulationFault(
            "No videos can be made of these numbers.",
            where="takes, seconds, height, samples, workers",
            expected=f"takes, samples and workers from 1, at least {LEAST_FRAMES} frames (seconds "
            f"x {FRAMES_PER_SECOND}), an even height from 16",
            got=f"{takes} takes of {frames} frames, height {height}, {samples} samples, "
            f"{workers} workers",
            fix="Ask for more; 4 takes of 3 seconds show all four categories.",
        )


def _check_splits(splits: Sequence[str]) -> None:
    if not splits or set(splits) - set(SPLIT_NAMES):
        raise SimulationFault(
            "Takes cannot go through these splits.",
            where="splits",
            expected=f"one or more of {', '.join(SPLIT_NAMES)}",
            got=", ".join(splits) or "none",
            fix="Name a split for each take in turn, in fours to give each category its share.",
        )


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Marks an empty folder as ours, or makes sure that it is, with the same settings."""
    marker = out / MARKER
    if marker.exists():
        found = _read_marker(marker)
        if found != settings:
            raise SimulationFault(
                "This folder holds a simulation of other settings.",
                where=marker,
                expected=settings,
                got=found,
                fix="Choose another folder, delete this one, or ask for its settings.",
            )
        return
    if out.exists() and any(out.iterdir()):
        raise SimulationFault(
            "This folder holds something that is not a simulation.",
            where=out,
            expected=f"a new or empty folder, or one with {MARKER}",
            got=", ".join(sorted(path.name for path in out.iterdir())[:5]),
            fix="Choose another folder; nothing was changed in this one.",
        )
    out.mkdir(parents=True, exist_ok=True)
    _write(marker, orjson.dumps(settings))


def _read_marker(marker: Path) -> dict[str, Any]:
    try:
        return orjson.loads(marker.read_bytes())
    except orjson.JSONDecodeError as fault:
        raise SimulationFault(
            "The mark of this simulated folder is damaged.",
            where=marker,
            expected="JSON",
            got=fault,
            fix="Delete the folder and simulate it anew.",
        ) from fault


def _take_folder(out: Path, plan: TakePlan) -> Path:
    return out / "takes" / plan.take_name


def _write_takes(
    out: Path, plans: Sequence[TakePlan], filming: Filming, workers: int
) -> Iterator[None]:
    """Draws takes in so many processes, and yields once for each that is there.

    Raises SimulationFault if a process dies.
    """
    if min(workers, len(plans)) <= 1:
        yield from (_write_take(out, plan, filming) for plan in plans)
        return
    pool = take_processes(workers)
    try:
        jobs = [pool.submit(_write_take, out, plan, filming) for plan in plans]
        yield from (job.result() for job in as_completed(jobs))
    except BrokenProcessPool as died:
        raise death_of_one(SimulationFault, "draws takes", workers, died) from died
    finally:  # stopped or failed: takes that are begun are finished, no other is
        pool.shutdown(cancel_futures=True)


def _write_take(out: Path, plan: TakePlan, filming: Filming) -> None:
    """Draws a take under a temporary name, which it loses when all of it is there."""
    folder = _take_folder(out, plan)
    partial = folder.with_name(f".{plan.take_name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    clock, rig = take_clock(plan), _write_camera_files(out, plan, partial)
    videos = partial / SMALL_VIDEOS
    videos.mkdir(parents=True)
    scene = build_scene(plan.category, plan.seed, clock.scene_seconds, plan.seconds)
    paths = {cam_id: videos / video_name(plan, cam_id) for cam_id in plan.exo_ids}
    film(scene, rig, paths | {"ego": videos / video_name(plan, plan.ego_id)}, filming)
    partial.rename(folder)


def _write_camera_files(out: Path, plan: TakePlan, folder: Path) -> Rig:
    """Writes all of a take but its videos, its trajectory under `folder`; returns the cameras."""
    clock = take_clock(plan)
    eyes = eye_poses(plan.category, plan.seed, clock.row_seconds, plan.seconds)
    rig = build_rig(plan, eyes[0])
    trajectory = folder / "trajectory"
    _write(trajectory / "gopro_calibs.csv", gopro_calibs(plan, rig).encode())
    loop = closed_loop_trajectory(plan, rig, clock, eyes)
    _write(trajectory / "closed_loop_trajectory.csv", loop.encode())
    lines = b"\n".join(orjson.dumps(line) for line in online_calibration(rig, clock))
    _write(trajectory / "online_calibration.jsonl", lines + b"\n")
    _write(out / "captures" / plan.capture_name / "timesync.csv", timesync(plan, clock).encode())
    if plan.has_camera_pose:
        poses = out / "annotations" / "ego_pose" / plan.split / "camera_pose"
        content = camera_pose(plan, rig, eyes[clock.nearest_rows])
        _write(poses / f"{plan.take_uid}.json", orjson.dumps(content))
    return rig


def _faulty(seed: int) -> list[TakePlan]:
    """A dropped take and one without videos, in that order, both short."""
    dropped, silent_one = (plan_take(seed, index, 40) for index in (DROPPED, WITHOUT_VIDEO))
    return [
        replace(dropped, take_name="cmu_bike99_1", is_dropped=True),
        replace(silent_one, take_name="sfu_basketball99_1"),
    ]


def _write_metadata(out: Path, plans: Sequence[TakePlan], stray: str | None) -> None:
    """Writes the lists of takes, captures and splits: last, so that they name what is there."""
    _write(out / "annotations" / "splits.json", orjson.dumps(splits_file(plans, stray)))
    _write(out / "captures.json", orjson.dumps([capture_entry(plan) for plan in plans]))
    _write(out / "takes.json", orjson.dumps([take_entry(plan) for plan in plans]))


def _write(path: Path, content: bytes) -> None:
    """Writes a file whole: under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
