"""A peer's side of the comparison: it copies clips into its own format, then reads when told to.

Nothing of ours and nothing but numpy and torch, for it runs in the peer's own environment. Lines
of JSON go both ways: the readers' names once they are ready, then what an epoch took for each name.
"""

import contextlib
import json
import os
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Clips:
    """What the parent asks for: clips in one raw file, and the order that they are wanted in."""

    raw: Path
    folder: Path
    count: int
    batch: int
    per_shard: int
    shapes: dict[str, list[int]]
    seed: int

    def row(self, number: int) -> dict[str, np.ndarray]:
        """A clip's arrays by name, float16."""
        sizes = {name: int(np.prod(shape)) for name, shape in self.shapes.items()}
        words = np.fromfile(
            self.raw,
            np.float16,
            sum(sizes.values()),
            offset=number * sum(sizes.values()) * np.dtype(np.float16).itemsize,
        )
        parts = np.split(words, np.cumsum(list(sizes.values()))[:-1])
        return {
            name: part.reshape(self.shapes[name])
            for name, part in zip(self.shapes, parts, strict=True)
        }

    @property
    def order(self) -> list[int]:
        """All clips, shuffled as the parent's readers take them."""
        return np.random.default_rng(self.seed).permutation(self.count).tolist()


Row = dict[str, Any]
"""A clip's arrays by name: numpy's or torch's."""
Epoch = Callable[[], Iterable[Row]]
"""One call: every clip once, in a random order."""


def main(
    version: str, write: Callable[[Clips], None], readers: Callable[[Clips], dict[str, Epoch]]
) -> None:
    """Does one of two tasks, as the first argument says; the second is the Clips as JSON.

    "write": the clips in the peer's format. "read": an epoch for every line of input, until
    there is no more. Two processes, so that no reader profits from pages that its writer mapped.
    """
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    task, plain = sys.argv[1], json.loads(sys.argv[2])
    clips = Clips(**{**plain, "raw": Path(plain["raw"]), "folder": Path(plain["folder"])})
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    with contextlib.redirect_stdout(sys.stderr):  # what peers print is no answer
        if task == "write":
            write(clips)
            return
        epochs = readers(clips)
        versions = {"version": version, "torch": torch.__version__, "numpy": np.__version__}
        sums = {name: _checked(epoch, clips) for name, epoch in epochs.items()}
        print(json.dumps({"readers": sums, **versions}), file=answers, flush=True)
        memory = {
            name: torch.empty(clips.batch, *shape, dtype=torch.float16)
            for name, shape in clips.shapes.items()
        }
        for line in sys.stdin:
            took = _timed(epochs[json.loads(line)], clips, memory)
            print(json.dumps(took), file=answers, flush=True)


def _timed(epoch: Epoch, clips: Clips, memory: dict[str, torch.Tensor]) -> dict[str, float]:
    """Reads every clip and copies every byte into batches whose memory is used again."""
    began, began_cpu, count = time.perf_counter(), time.process_time(), 0
    for row in epoch():
        for name, batch in memory.items():
            batch[count % clips.batch].copy_(torch.as_tensor(row[name]))
        count += 1
    took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - began_cpu}
    if count != clips.count:
        raise RuntimeError(f"an epoch gave {count} clips of {clips.count}")
    return took


def _checked(epoch: Epoch, clips: Clips) -> int:
    """Sum of the checksums of all arrays that an epoch gives: the same for the same clips."""
    total = 0
    for row in epoch():
        for name in clips.shapes:
            words = np.ascontiguousarray(np.asarray(row[name]))
            total += zlib.crc32(words.view(np.uint8).reshape(-1).data)
    return total
