"""The size of the job to come: clips to encode, bytes of the store, hours of a GPU."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from stores.schema import ARRAYS, ClipShape

_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class ArrayBytes:
    """What one array of the store comes to."""

    clips: int
    bytes: int
    compressed: bool
    """True if the store packs it: `bytes` are before packing, so less will lie on the disk."""


@dataclass(frozen=True)
class JobSize:
    """What `encode-latents` has to do, and what it leaves."""

    clips: int
    arrays: Mapping[str, ArrayBytes]
    encode_clips_per_second: float
    """An assumption of the caller, not a measurement."""

    @property
    def bytes(self) -> int:
        """Of all arrays, before packing."""
        return sum(array.bytes for array in self.arrays.values())

    @property
    def gpu_hours(self) -> float:
        """At the assumed rate."""
        return self.clips / self.encode_clips_per_second / _SECONDS_PER_HOUR


def job_size(
    clips_of_split: Mapping[str, int],
    shape: ClipShape,
    *,
    frames_for: Collection[str],
    encode_clips_per_second: float,
) -> JobSize:
    """The job of these clips; RGB frames are kept for the splits of `frames_for` only."""
    every = sum(clips_of_split.values())
    some = sum(count for split, count in clips_of_split.items() if split in frames_for)
    arrays = {}
    for name, spec in ARRAYS.items():
        clips = every if spec.every_clip else some
        row_bytes = math.prod(spec.row_shape(shape)) * np.dtype(spec.dtype).itemsize
        arrays[name] = ArrayBytes(clips, clips * row_bytes, spec.compressed)
    return JobSize(every, arrays, encode_clips_per_second)
