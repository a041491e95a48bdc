"""Processes that train, each as one rank: forked from one that has imported everything."""

import faulthandler
import multiprocessing
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from signal import SIGABRT
from typing import Any

import torch
import torch._dynamo.utils

from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.interrupt import exit_code
from exo2ego.training.stages import STAGES
from exo2ego.training.trainer import train
from stores.errors import UserFault
from stores.zarr_store import open_store

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload([__name__])  # to import takes longer than to train so little


def start_rank(
    task: Mapping[str, Any], environment: Mapping[str, object], said: Path
) -> BaseProcess:
    """Starts a process that does a task, with these variables; `said` is to be its stderr."""
    process = FORKED.Process(target=run, args=(dict(task), dict(environment), said))
    process.start()
    return process


def ended(process: BaseProcess, longest_s: float) -> int:
    """The exit code; a process that does not end says where it stands, and is killed."""
    process.join(longest_s)
    if process.exitcode is None:
        os.kill(process.pid or 0, SIGABRT)
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def run(task: dict[str, Any], environment: dict[str, object], said: Path) -> None:
    os.environ |= {name: str(value) for name, value in environment.items()}
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    faulthandler.enable()
    torch.set_num_threads(1)
    rank, step, number = task.get("signal", (None, None, None))
    if "nan_clip" in task:
        make_nan(task["stage"], task["nan_clip"])

    def track(items, /, *, total, what, unit):
        for item in items:
            if (int(os.environ["RANK"]), item) == (rank, step):
                os.kill(os.getpid(), number)
            yield item

    before = thread_names()
    try:
        report = train(
            task["stage"],
            open_store(task["store"], derive=CLIP_CAMERAS),
            Path(task["out"]),
            load_experiment(task["stage"], task["overrides"]),
            wan_spec=task["wan"],
            parent=Path(task["parent"]) if task["parent"] else None,
            resume=task["resume"],
            sharing=task["sharing"],
            track=track,
        )
    except UserFault as fault:
        print(fault, file=sys.stderr)
        sys.exit(2)
    print("threads", *sorted(thread_names() - before), file=sys.stderr)
    print("graphs", torch._dynamo.utils.counters["stats"]["unique_graphs"], file=sys.stderr)
    sys.exit(exit_code(report.stopped_by))


def thread_names() -> set[str]:
    """What this process's threads are called, native ones included."""
    names = set()
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it has ended since it was listed
            names.add(path.read_text().strip())
    return names


def make_nan(stage: str, clip_id: str) -> None:
    """From now on the loss of this clip is not a number."""
    real = STAGES[stage].losses

    def losses(model, batch, *more):
        bad = [float("nan") if name == clip_id else 1.0 for name in batch.clip_ids]
        return real(model, batch, *more) * torch.tensor(bad)

    STAGES[stage] = replace(STAGES[stage], losses=losses)
