"""What writing latents costs an encode at 100 clips a second: two tasks of one GPU, as it works.

The GPU is a lock that a task holds for 10 ms a clip and waits with, as a host waits for kernels:
while one task hashes, writes and flushes a shard, the other one's clips can be encoded.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from threading import Lock

from benchmarks.rows import Row, interleaved
from benchmarks.store_clips import EGO, EXO, RECIPE, clip_row, random_row
from pipeline.encode_workers import MOST_THREADS
from stores.zarr_store import CLIPS_PER_SHARD, create_store, write_shard

CLIPS_A_SECOND, SHARDS, ROUNDS = 100, 8, 5
BAR_PERCENT = 5.0


def pace_rows(path: Path) -> list[Row]:
    """How much longer an encode takes for writing its latents than for throwing them away."""
    clips = [clip_row(number) for number in range(CLIPS_PER_SHARD)]
    arrays = {n: [random_row(n, k) for k in range(CLIPS_PER_SHARD)] for n in (EXO, EGO)}
    create_store(path, RECIPE)
    gpu, numbers = Lock(), count()

    def task(_: int, *, writes: bool) -> None:
        for _ in clips:
            with gpu:
                time.sleep(1 / CLIPS_A_SECOND)
        if writes:
            write_shard(path, next(numbers), clips, arrays)

    def encode(writes: bool) -> None:
        with ThreadPoolExecutor(MOST_THREADS) as tasks:
            list(tasks.map(partial(task, writes=writes), range(SHARDS)))

    works = {"without": partial(encode, writes=False), "with": partial(encode, writes=True)}
    spent = interleaved(works, ROUNDS)
    seconds = {name: [each.seconds for each in some] for name, some in spent.items()}
    pairs = zip(seconds["with"], seconds["without"], strict=True)
    slower = [100 * (kept / thrown - 1) for kept, thrown in pairs]
    rate = SHARDS * CLIPS_PER_SHARD / median(seconds["without"])
    note = f"from {min(slower):.1f} to {max(slower):.1f}; {rate:.0f} clips/s without"
    what = "latents hashed, written and synced: an encode of that pace is slower by"
    return [Row(what, median(slower), "%", None, BAR_PERCENT, note)]
