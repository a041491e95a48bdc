"""Dask for `encode-latents`: a cluster in this process or somebody's scheduler, and its faults."""

import logging
import os
import queue
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from distributed import Client, Future, KilledWorker, Scheduler, SpecCluster, Worker

from pipeline.encode_shard import ShardOutcome, ShardTask, encode_shard
from stores.errors import StoreFault

MOST_THREADS = 2
"""Choice: one task decodes, or waits for the disk, while the other one encodes; each holds a VAE
and a shard's latents. So many on all cores, or on each GPU."""
PATIENCE_SECONDS = 60.0
"""Choice: how long a run waits while the scheduler has no worker at all."""
_LOOK_SECONDS, _CONNECT_SECONDS = 1.0, 30.0
_LEAST_WAITING = 64
"""Shards that the scheduler is given at least, so that a cluster that adapts has reason to grow."""
_GONE = (OSError, CancelledError, TimeoutError)


@dataclass(frozen=True)
class Crew:
    """Who does the tasks."""

    client: Client
    address: str | None
    """The scheduler's, or None if the workers are this process's own."""
    needs: dict[str, float] = field(default_factory=dict)
    """What a task takes of its worker: a share of its GPU, where a local worker is one GPU."""
    patience_seconds: float = PATIENCE_SECONDS

    def run(self, tasks: Iterable[ShardTask]) -> Iterator[ShardOutcome]:
        """The outcomes as they come. Raises StoreFault if the scheduler or all workers are gone."""
        waiting, done = iter(tasks), queue.SimpleQueue[Future]()
        running: set[Future] = set()
        try:
            while True:
                for task in islice(waiting, self._room() - len(running)):
                    future = self.client.submit(
                        encode_shard, task, pure=False, resources=self.needs or None
                    )
                    future.add_done_callback(done.put)
                    running.add(future)
                if not running:
                    return
                future, outcome = self._next(done)
                running.remove(future)
                yield outcome
        except StoreFault:  # which is an OSError too
            raise
        except KilledWorker as lost:
            raise self._fault("workers that stay", f"{lost.task}: its workers died") from lost
        except _GONE as gone:
            raise self._fault("a scheduler that answers", str(gone) or "no answer") from gone

    def _room(self) -> int:
        threads: Any = self.client.nthreads()  # of a client that waits, whatever its type says
        return max(_LEAST_WAITING, 2 * sum(threads.values()) + 2)

    def _next(self, done: "queue.SimpleQueue[Future]") -> tuple[Future, ShardOutcome]:
        seen, future = time.monotonic(), None
        while True:
            try:
                future = future or done.get(timeout=_LOOK_SECONDS)
                # a worker that dies now takes the outcome along: the task is then done again
                return future, future.result(timeout=_LOOK_SECONDS)
            except (queue.Empty, TimeoutError):
                pass
            if self.client.status != "running":
                raise self._fault("a scheduler that answers", f"connection {self.client.status}")
            if self.client.nthreads():
                seen = time.monotonic()
            elif time.monotonic() - seen > self.patience_seconds:
                raise self._fault("a worker", f"none for {self.patience_seconds:.0f} s")

    def _fault(self, expected: str, got: str) -> StoreFault:
        return StoreFault(
            "The cluster is lost; all shards that were finished are kept.",
            where=self.address or "this process",
            expected=expected,
            got=got,
            fix="See to the scheduler and its workers (memory, time limits), then run the same "
            "command again: it goes on from there.",
        )


@contextmanager
def crew(
    workers: int | None,
    scheduler: str | None,
    device: str,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator[Crew]:
    """The workers of the scheduler at that address, or of quiet threads in this process.

    Here, `workers` tasks go on at once, by default one a core but at most two; on GPUs `workers` is
    how many of them work, with two tasks each.
    """
    if scheduler is not None:
        with _connected(scheduler, min(patience_seconds, _CONNECT_SECONDS)) as client:
            yield Crew(client, scheduler, patience_seconds=patience_seconds)
        return
    threads_before = torch.get_num_threads()  # tasks set it to one, for the whole process
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    count = workers or gpus or min(MOST_THREADS, os.cpu_count() or 1)
    try:
        with _local(count, bool(gpus)) as cluster, Client(cluster) as client:
            yield Crew(client, None, {"GPU": 1} if gpus else {})
    finally:
        torch.set_num_threads(threads_before)


@contextmanager
def _connected(scheduler: str, seconds: float) -> Iterator[Client]:
    try:
        client = Client(scheduler, set_as_default=False, timeout=seconds)
    except (*_GONE, ValueError) as refused:
        raise StoreFault(
            "No Dask scheduler answers there.",
            where=scheduler,
            expected="the address of a running scheduler: tcp://host:8786",
            got=str(refused).partition("\n")[0],
            fix="Start one with `dask scheduler`, or leave --scheduler out to work here.",
        ) from refused
    with _hushed():
        try:
            yield client
        finally:
            client.close(timeout=_LOOK_SECONDS)


@contextmanager
def _hushed() -> Iterator[None]:
    """Without Dask's own words on a lost connection: the run says it in ours."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _local(count: int, on_gpus: bool) -> SpecCluster:
    """Workers of this process. LocalCluster would serve HTTP on all interfaces, dashboard or not.

    GPUs: a worker each, of two tasks. Else: one worker of `count` threads."""
    http = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    about = {"memory_limit": 0, **http}
    about["nthreads"] = MOST_THREADS if on_gpus else count
    about |= {"resources": {"GPU": MOST_THREADS}} if on_gpus else {}
    quiet: Any = logging.CRITICAL  # a level, though its annotation says bool
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": {"protocol": "inproc://", **http}},
        workers={k: {"cls": Worker, "options": about} for k in range(count if on_gpus else 1)},
        silence_logs=quiet,
    )
