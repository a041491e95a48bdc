"""Processes that work on takes: spawned, of one thread each, and gone when their parent is."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pyarrow as pa
import torch

from stores.errors import UserFault


def take_processes(count: int) -> ProcessPoolExecutor:
    """A pool of so many processes, to be shut down by the caller."""
    # fork would copy torch's and decord's threads half alive
    start = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=start, initializer=_settle)


def death_of_one(
    fault: type[UserFault], does: str, count: int, died: BrokenProcessPool
) -> UserFault:
    """The fault to raise when a process of such a pool has died; `does` is what it did."""
    return fault(
        f"A process that {does} has died.",
        where=f"one of {count} processes",
        expected="processes that run to their end",
        got=str(died),
        fix="If memory ran out, ask for fewer with --workers. Run again: finished takes stay.",
    )


def _settle() -> None:
    """One thread a process; Ctrl-C is the parent's to answer; and its death is the worker's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
