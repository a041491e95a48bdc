"""What `motion_lateness` can tell of samples: how it changes when they are moved by a frame."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from jaxtyping import UInt8
from torch import Tensor

from exo2ego.evaluation.bootstrap import mean_interval
from exo2ego.evaluation.camera_timing import Timing, camera_timing
from exo2ego.evaluation.manifest import read_manifest
from exo2ego.evaluation.sample_files import read_frames
from stores.reading import Store

SHIFTS_FRAMES = (-1, 0, 1)


@dataclass(frozen=True)
class Moved:
    """Means over takes and their 95 % intervals, of samples that come so many frames late."""

    frames_late: int
    takes: int
    on_time: tuple[float, float, float]
    lateness: tuple[float, float, float]


def timing_when_moved(store: Store, samples: Path) -> Iterator[Moved]:
    """Timing of samples that are moved to come a frame early, as they are, and a frame late.

    All of one frame less than a clip has. Clips without a lateness (whose truth does not move) are
    left out.
    """
    clips = sorted(read_manifest(samples).clips)
    made = [read_frames(samples / f"{clip_id}.safetensors", clip_id) for clip_id in clips]
    true = [torch.from_numpy(store.read("ego_frames", [clip_id])[0]) for clip_id in clips]
    takes = [store.row(clip_id).take_name for clip_id in clips]
    for late in SHIFTS_FRAMES:
        pairs = zip(made, true, strict=True)
        yield _means(late, takes, [camera_timing(*moved(*pair, late)) for pair in pairs])


def moved(
    made: UInt8[Tensor, "T H W 3"], true: UInt8[Tensor, "T H W 3"], late: int
) -> tuple[UInt8[Tensor, "n H W 3"], UInt8[Tensor, "n H W 3"]]:
    """Frames of both such that the made ones come so much later; one less than there are."""
    count = len(made) - 1
    return made[max(-late, 0) :][:count], true[max(late, 0) :][:count]


def _means(late: int, takes: list[str], timings: list[Timing]) -> Moved:
    found: dict[str, list[tuple[float, float]]] = {}
    for take, timing in zip(takes, timings, strict=True):
        if timing.on_time is not None and timing.lateness is not None:
            found.setdefault(take, []).append((timing.on_time, timing.lateness))
    on_time, lateness = ([fmean(one[k] for one in of) for of in found.values()] for k in (0, 1))
    return Moved(late, len(found), _mean(on_time, "on time"), _mean(lateness, "lateness"))


def _mean(values: list[float], name: str) -> tuple[float, float, float]:
    """The mean, and where it lies."""
    return fmean(values), *(mean_interval(values, name) or (float("nan"), float("nan")))
