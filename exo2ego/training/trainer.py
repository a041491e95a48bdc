"""The training loop, one for all stages: exact, resumable, stopped cleanly by a signal."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from exo2ego.training.checkpoint import checkpoints, read_state
from exo2ego.training.checkpoint_faults import newest_whole
from exo2ego.training.experiment import Experiment
from exo2ego.training.held_out import SPLIT, truncate_held_out
from exo2ego.training.history import note_start
from exo2ego.training.interrupt import StopRequest, stop_request
from exo2ego.training.lineage import Source
from exo2ego.training.losses import (
    METRICS,
    StepMetrics,
    append_metrics,
    read_metrics,
    truncate_metrics,
)
from exo2ego.training.measure import open_held_out
from exo2ego.training.nan_guard import truncate_skipped
from exo2ego.training.refusals import check_clips, check_folder, check_stage
from exo2ego.training.run import Run, go_on, keep_best, open_run, save_run
from exo2ego.training.step import take_step
from exo2ego.training.watching import Watcher, Watchers
from stores.atomic import disk_faults
from stores.lock import write_lock
from stores.progress import Track, silent
from stores.reading import Store


@dataclass(frozen=True)
class TrainReport:
    """What a call of `train` did."""

    stage: str
    steps: int
    """Steps that the run has done in all."""
    finished: bool
    """False if a signal stopped it before its last step."""
    stopped_by: str | None
    """SIGINT, SIGTERM or SIGUSR1, if one of them did."""
    final_loss: float | None
    """None if the last step was skipped."""
    steps_skipped: int
    """Of the whole run: their loss or gradient was not a number."""
    losses: Path
    checkpoint: Path
    seconds: float
    clips_per_second: float
    """Of this call alone, checkpoints included."""
    notes: list[str]
    """What was left out."""


def train(
    stage: str,
    store: Store,
    out: Path,
    experiment: Experiment,
    *,
    wan_spec: str | None = None,
    parent: Path | None = None,
    first_frames: str | None = None,
    resume: bool = False,
    allow_other_store: bool = False,
    device: str = "cpu",
    track: Track = silent,
    watchers: Sequence[Watcher] = (),
) -> TrainReport:
    """Trains `stage` on the store's train split into the folder `out`, up to the last step.

    `first_frames` (a digest's beginning) chooses among several of Align's predictions. With
    `resume` the run goes on from its newest checkpoint (or starts, if there is none yet), and
    its losses and weights are those of a run that was never stopped. Ctrl-C, SIGTERM and SIGUSR1
    end the step, write a checkpoint and return; a second signal kills. Raises a UserFault for
    another store, experiment, stage or Wan than the run's, StoreFault if
    another process trains into `out`, and TrainingFault for too many NaN.
    """
    began = time.perf_counter()
    check_stage(stage, experiment)
    watch = Watchers(*watchers)
    with write_lock(out, "run"), stop_request() as stop:
        check_folder(out, resume=resume)
        newest = newest_whole(out)
        before = read_state(newest) if newest else None
        source = Source(store, wan_spec, parent, first_frames).completed(newest, before)
        run = open_run(source, out, experiment, device, allow_other_store=allow_other_store)
        check_clips(run.stream)
        if newest and before:
            go_on(run, newest, before, allow_other_store=allow_other_store)
        first = run.state.step
        with disk_faults(out):
            _cut_back(out, first)
            if first < experiment.optimiser.steps:
                note_start(out, run.state, device)
        with closing(run.stream):
            _run_steps(run, stop, watch, track)
    return _report(run, first, stop, watch.notes, time.perf_counter() - began)


def _run_steps(run: Run, stop: StopRequest, watch: Watcher, track: Track) -> None:
    """All steps that are left, or those up to a signal."""
    experiment, first, last = run.experiment, run.state.step, run.experiment.optimiser.steps
    held_out = open_held_out(run)
    watch.begin(run.out, first, last)
    if experiment.held_out.every and not held_out:
        watch.note(f"The store has no clip of split {SPLIT}: there is no held-out loss.")
    try:
        if held_out and held_out.was_missed(first):
            watch.held_out(held_out.note(first))
            keep_best(run)
        steps = range(first, last)
        for step in track(steps, total=len(steps), what=run.stage.name, unit="steps"):
            metrics = next_step(run, step)
            append_metrics(run.out, metrics)
            watch.step(metrics)
            done, stopping = step + 1, stop.by is not None
            if held_out and held_out.is_due(done) and not stopping:
                watch.held_out(held_out.note(done))
            if stopping or done == last or done % experiment.checkpoint_every == 0:
                watch.saved(save_run(run, done), done, stop)
            if stopping:
                break
    finally:
        watch.end()
        if held_out:
            held_out.stream.close()


def next_step(run: Run, step: int) -> StepMetrics:
    """One step on the next batch, and how long that was waited for."""
    asked = time.perf_counter()
    batch = next(run.stream)
    return take_step(run, step, batch, data_wait_s=time.perf_counter() - asked)


def _cut_back(out: Path, step: int) -> None:
    """Drops the lines of steps that will be done again."""
    truncate_metrics(out, step)
    truncate_skipped(out, step)
    truncate_held_out(out, step)


def _report(
    run: Run, first: int, stop: StopRequest, notes: list[str], seconds: float
) -> TrainReport:
    lines = read_metrics(run.out)
    done = lines[-1].step
    finished = done == run.experiment.optimiser.steps
    clips = (done - first) * run.experiment.batch.global_batch
    return TrainReport(
        stage=run.stage.name,
        steps=done,
        finished=finished,
        stopped_by=stop.by.name if stop.by and not finished else None,
        final_loss=lines[-1].loss,
        steps_skipped=sum(line.is_skipped for line in lines),
        losses=run.out / METRICS,
        checkpoint=checkpoints(run.out)[-1],
        seconds=seconds,
        clips_per_second=clips / seconds,
        notes=notes,
    )
