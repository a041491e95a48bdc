"""The verb `encode-latents`: clip index to store, on Dask, a shard a task, resumable."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count as count_from
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
import torch
from distributed import Client, Future, Scheduler, SpecCluster, Worker, as_completed

from exo2ego.model.vae import load_codec
from pipeline.encode_shard import EncodeJob, PlannedShard, ShardTask, encode_shard
from stores.arrays import shard_path
from stores.atomic import remove_partials, write_whole
from stores.errors import StoreFault
from stores.index import ClipIndex, ClipRow, read_index, row_to_dict
from stores.journal import FinishedShard, drop_entries, read_entries
from stores.lock import write_lock
from stores.place import Place
from stores.progress import Track, silent
from stores.schema import ARRAYS
from stores.version import (
    ABSENT_ROW,
    StoredClip,
    StoreRecipe,
    VaeRecipe,
    as_stored,
    clip_digest,
    read_head,
)
from stores.zarr_store import (
    CLIPS_PER_SHARD,
    commit,
    create_store,
    head_clips,
    next_shard,
    stored_clips,
)

MOST_WORKERS = 2
"""Choice: one task decodes while the other one encodes; each holds a VAE and a shard's frames."""


@dataclass(frozen=True)
class FailedTake:
    """Clips of one take that could not be encoded, and why."""

    take_name: str
    clip_ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class EncodeReport:
    """What the verb did."""

    hash: str
    clips_new: int
    """Clips that this version has and its parent had not, or had with other data."""
    clips_total: int
    clips_resumed: int
    """Of the new ones: those that an interrupted run had finished."""
    seconds: float
    failed: tuple[FailedTake, ...]


@dataclass(frozen=True)
class EncodePlan:
    """What is to do: shards to make, shards that an interrupted run made, and changed labels."""

    shards: tuple[PlannedShard, ...]
    finished: tuple[FinishedShard, ...]
    relabelled: tuple[StoredClip, ...]
    """Clips whose arrays stay, but of which the index says something else (split, sets)."""


def encode_latents(
    index_path: Path,
    store_path: Place,
    *,
    vae_spec: str,
    frames_for: tuple[str, ...] = ("test",),
    splits: tuple[str, ...] | None = None,
    workers: int | None = None,
    device: str = "cpu",
    scheduler: str | None = None,
    clips_per_shard: int = CLIPS_PER_SHARD,
    track: Track = silent,
) -> EncodeReport:
    """Encodes the clips of the index that the store lacks, and commits them as its new version.

    Splits in `frames_for` keep their frames too. `scheduler` is the address of a Dask scheduler
    whose workers see the same disk; without it, `workers` threads of this process work (default:
    the cores, at most two). A take that fails is reported and left out; the others go on.
    """
    started, index = time.perf_counter(), read_index(index_path)
    recipe = _recipe(index, vae_spec, device)
    with write_lock(store_path):
        size = create_store(store_path, recipe, clips_per_shard=clips_per_shard).clips_per_shard
        remove_partials(store_path / "arrays")
        rows = {row.clip_id: row for row in index.rows if splits is None or row.split in splits}
        plan = plan_encode(store_path, size, list(rows.values()), frames_for)
        job = EncodeJob(Path(index.root), store_path, recipe, vae_spec, device)
        tasks = [ShardTask(job, shard) for shard in plan.shards]
        failed = _run(tasks, workers, scheduler, track)
        _write_rejects(store_path / "rejects.json", failed)
        finished = read_entries(store_path / "journal")
        new = [clip for entry in finished for clip in stored_clips(entry, rows, size)]
        name = _commit(store_path, [*new, *plan.relabelled], index, failed)
        total = len(head_clips(store_path))
    resumed = sum(len(entry.clip_ids) for entry in plan.finished)
    seconds = time.perf_counter() - started
    return EncodeReport(name, len(new), total, resumed, seconds, tuple(failed))


def plan_encode(
    store: Place, clips_per_shard: int, rows: Sequence[ClipRow], frames_for: tuple[str, ...]
) -> EncodePlan:
    """What is to do for these clips. The same store and clips always give the same shards.

    Shards that the journal has are taken over; other entries of the journal are dropped.
    """
    head = {clip.clip_id: clip for clip in head_clips(store)}
    fresh, relabelled = [], []
    for row in sorted(rows, key=lambda row: (row.take_name, row.clip_id)):
        old = head.get(row.clip_id)
        if old is None or not _keeps_arrays(old, row, _arrays_for(row, frames_for)):
            fresh.append(row)
        elif clip_digest(old) != clip_digest(row):
            relabelled.append(as_stored(row, old.rows, old.digests))
    groups = _cut(fresh, frames_for, clips_per_shard)
    finished = _take_over(store, groups)
    taken = {entry.shard for entry in finished.values()}
    free = (number for number in count_from(next_shard(store)) if number not in taken)
    shards = [
        PlannedShard(next(free), clips, arrays)
        for place, (clips, arrays) in enumerate(groups)
        if place not in finished
    ]
    return EncodePlan(tuple(shards), tuple(finished.values()), tuple(relabelled))


def _recipe(index: ClipIndex, vae_spec: str, device: str) -> StoreRecipe:
    vae = load_codec(vae_spec, device=device).recipe()
    return StoreRecipe(clips=index.recipe, vae=VaeRecipe.model_validate(vae))


def _arrays_for(row: ClipRow, frames_for: tuple[str, ...]) -> tuple[str, ...]:
    keeps = row.split in frames_for
    filmed = bool(row.ego.video)
    return tuple(
        name
        for name, spec in ARRAYS.items()
        if (keeps or spec.every_clip) and (filmed or not spec.of_ego_video)
    )


def _keeps_arrays(old: StoredClip, row: ClipRow, arrays: tuple[str, ...]) -> bool:
    """True if the clip's arrays are there and were made from the same frames and cameras."""
    before, now = row_to_dict(old), row_to_dict(row)
    same = all(before[key] == now[key] for key in ("frames", "ego", "exos"))
    return same and all(old.rows[name] != ABSENT_ROW for name in arrays)


Group = tuple[tuple[ClipRow, ...], tuple[str, ...]]


def _cut(rows: list[ClipRow], frames_for: tuple[str, ...], clips_per_shard: int) -> list[Group]:
    """Clips of one shard each, and the arrays to keep: never of two takes."""
    groups: list[Group] = []
    for (_, arrays), members in groupby(
        rows, key=lambda row: (row.take_name, _arrays_for(row, frames_for))
    ):
        clips = tuple(members)
        for first in range(0, len(clips), clips_per_shard):
            groups.append((clips[first : first + clips_per_shard], arrays))
    return groups


def _take_over(store: Place, groups: list[Group]) -> dict[int, FinishedShard]:
    """By place among the groups: the shard that an interrupted run finished."""
    entries = {entry.clip_ids: entry for entry in read_entries(store / "journal")}
    found = {}
    for place, (clips, arrays) in enumerate(groups):
        ids, digests = zip(*((clip.clip_id, clip_digest(clip)) for clip in clips), strict=True)
        entry = entries.get(ids)
        if entry is None or not entry.answers(ids, digests, set(arrays)):
            continue
        files = [shard_path(store / "arrays", ARRAYS[name], entry.shard) for name in arrays]
        if all(file.exists() for file in files):
            found[place] = entry
    drop_entries(store / "journal", keep={entry.shard for entry in found.values()})
    return found


def _run(
    tasks: Sequence[ShardTask], workers: int | None, scheduler: str | None, track: Track
) -> list[FailedTake]:
    """Runs the tasks to their end, counting clips; returns what failed, in the tasks' order."""
    failures: dict[int, str] = {}
    clips = sum(len(task.shard.clips) for task in tasks)
    if not tasks:
        return []
    with _dask(workers, scheduler) as client:
        futures = {client.submit(encode_shard, task, pure=False): task for task in tasks}
        done = _clips_as_done(futures, failures)
        for _ in track(done, total=clips, what="encode", unit="clips"):
            pass
    return [
        FailedTake(
            task.shard.clips[0].take_name,
            tuple(clip.clip_id for clip in task.shard.clips),
            failures[task.shard.number],
        )
        for task in tasks
        if task.shard.number in failures
    ]


def _clips_as_done(futures: dict[Future, ShardTask], failures: dict[int, str]) -> Iterator[ClipRow]:
    for future in as_completed(list(futures)):
        outcome = future.result()
        if outcome.failure is not None:
            failures[outcome.shard] = outcome.failure
        yield from futures[future].shard.clips


@contextmanager
def _dask(workers: int | None, scheduler: str | None) -> Iterator[Client]:
    """A client of the scheduler at that address, or of quiet threads in this process."""
    if scheduler is not None:
        with Client(scheduler) as client:
            yield client
        return
    threads_before = torch.get_num_threads()  # tasks set it to one, for the whole process
    try:
        count = workers or min(MOST_WORKERS, os.cpu_count() or 1)
        with _threads(count) as cluster, Client(cluster) as client:
            yield client
    finally:
        torch.set_num_threads(threads_before)


def _threads(count: int) -> SpecCluster:
    """A cluster of threads. LocalCluster would serve HTTP on all interfaces, dashboard or not."""
    http = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    about_worker = {"nthreads": count, "memory_limit": 0, **http}
    quiet: Any = logging.CRITICAL  # a level, though its annotation says bool
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": {"protocol": "inproc://", **http}},
        workers={0: {"cls": Worker, "options": about_worker}},
        silence_logs=quiet,
    )


def _write_rejects(path: Place, failed: Sequence[FailedTake]) -> None:
    if failed:
        write_whole(path, orjson.dumps(list(failed), option=orjson.OPT_INDENT_2))
    else:
        path.unlink(missing_ok=True)


def _commit(
    store: Place, clips: list[StoredClip], index: ClipIndex, failed: Sequence[FailedTake]
) -> str:
    """Hash of the version with these clips; of the present one if there is nothing to add."""
    head = read_head(store)
    if clips:
        return commit(store, clips, command="encode-latents", index_digest=index.digest)
    if head is not None:
        return head
    raise StoreFault(
        "No clip could be encoded; the store stays empty.",
        where=store,
        expected=f"clips of the {len(index.rows)} in the index",
        got=failed[0].reason if failed else "none of the splits that were asked for",
        fix=f"See {store / 'rejects.json'}." if failed else "Ask for a split that the index has.",
    )
