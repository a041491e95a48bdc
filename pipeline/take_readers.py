"""Readers of takes: each makes one take's clips and records them; threads, or processes if many."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from pipeline.clips import pose_gaps, usable_frames, windows
from pipeline.dataset import Dataset, Take
from pipeline.ingest_journal import TakeJournal, input_stamp, take_key
from pipeline.pose_notes import pose_notes
from pipeline.processes import death_of_one, take_processes
from pipeline.published import check_clips
from pipeline.rejects import Reject, TakeRejected
from pipeline.take_tasks import Task
from stores.errors import StoreFault, UserFault
from stores.index import ClipRow
from stores.recipe import ClipRecipe

FEW_TAKES = 500
"""Up to here threads read: starting processes, which import torch, takes as long as reading."""
THREADS = 2
"""One parses while the other waits for files. Parsing holds the interpreter's lock: four threads
were measured at 0.7 of the speed of one (benchmarks/ingest.py's takes, local disk)."""
_AHEAD = 4
"""Takes that each reader has waiting, so that memory does not grow with the dataset."""


class ReaderFault(UserFault, RuntimeError):
    """A process that reads takes has died."""


@dataclass(frozen=True)
class TakeReader:
    """Reads one take after the other into the journal; goes to other processes as it is."""

    dataset: Dataset
    recipe: ClipRecipe
    journal: TakeJournal

    def __call__(self, task: Task) -> bool:
        """True if the take was read now, False if the journal has it already."""
        key, stamp = take_key(task.entry), input_stamp(self.dataset, task.entry)
        if self.journal.has(key, stamp):
            return False
        rows, rejects, notes = self._read(task)
        self.journal.add(key, stamp, rows, rejects, notes)
        return True

    def _read(self, task: Task) -> tuple[list[ClipRow], list[Reject], dict[str, Any]]:
        entry = task.entry
        try:
            take = self.dataset.load(entry, self.recipe)
        except TakeRejected as why:
            rejects = [Reject(entry.take_name, entry.take_uid, "", why.reason, why.detail)]
            return [], rejects, {}
        notes = pose_notes(self.dataset, entry) if task.compares_poses else {}
        if task.published is None:
            return *_clips(take, self.recipe), notes
        checked = check_clips(task.published, windows(take, self.recipe))
        return checked.rows, checked.rejects, notes | {"altered": checked.altered}


def read_all(
    read: TakeReader, tasks: Iterable[Task], *, total: int, workers: int | None
) -> Iterator[bool]:
    """What `read` says of each task, in the order of `tasks`, which is drawn as it goes.

    `workers` None are all cores. Raises ReaderFault if a process dies."""
    cores = workers or len(os.sched_getaffinity(0))
    in_threads = total <= FEW_TAKES or cores == 1
    pool = ThreadPoolExecutor(min(cores, THREADS)) if in_threads else take_processes(cores)
    try:
        yield from _in_order(pool, read, tasks, cores * _AHEAD if cores > 1 else 1)
    except UserFault:
        raise
    except OSError as refused:
        raise StoreFault(
            "What is read of the takes cannot be written.",
            where=read.journal.folder,
            expected="a folder that can be written, with room for the list",
            got=refused.strerror or str(refused),
            fix="Make room and run again: finished takes stay, and so does a list of before.",
        ) from refused
    except BrokenProcessPool as died:
        raise death_of_one(ReaderFault, "reads takes", cores, died) from died
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: Executor, read: Callable[[Task], bool], tasks: Iterable[Task], ahead: int
) -> Iterator[bool]:
    waiting = deque()
    for task in tasks:
        waiting.append(pool.submit(read, task))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _clips(take: Take, recipe: ClipRecipe) -> tuple[list[ClipRow], list[Reject]]:
    clips, rejects = windows(take, recipe), pose_gaps(take, recipe)
    if not clips and not rejects:
        first, past = usable_frames(take)
        detail = f"frames {first} to {past} of {take.frame_count}, a clip spans {recipe.span}"
        rejects = [Reject(take.take_name, take.take_uid, "", "too_short", detail)]
    return clips, rejects
