"""The training loop, one for all stages: exact, resumable, stopped cleanly by a signal."""

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

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
from exo2ego.training.measure import HeldOut, open_held_out
from exo2ego.training.nan_guard import truncate_skipped
from exo2ego.training.parallel import RankFault, Ranks, Sharing, is_lost_rank, joined, lost_rank
from exo2ego.training.refusals import check_clips, check_folder, check_stage
from exo2ego.training.run import Place, Run, go_on, keep_best, open_run, save_alone, save_run
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
    begin_with: Path | None = None,
    resume: bool = False,
    allow_other_store: bool = False,
    sharing: Sharing = "ddp",
    device: str = "cpu",
    track: Track = silent,
    watchers: Sequence[Watcher] = (),
) -> TrainReport:
    """Trains `stage` on the store's train split into the folder `out`, up to the last step.

    `first_frames` (a digest's beginning) chooses among several of Align's predictions.
    `begin_with`, a run of the same stage, gives the weights of step 0, and nothing else. With
    `resume` the run goes on from its newest checkpoint (or starts, if there is none yet), and
    its losses and weights are those of a run that was never stopped. Ctrl-C, SIGTERM and SIGUSR1
    end the step, write a checkpoint and return; a second signal kills. Started by torchrun,
    processes share each global batch, as `sharing` says; the first one writes, and is watched.

    Raises a UserFault for another store, experiment, stage or Wan than the run's, StoreFault if
    another run trains into `out`, TrainingFault for too many NaN, and RankFault for a number of
    processes that does not fit, or if one of them is lost.
    """
    began = time.perf_counter()
    check_stage(stage, experiment)
    source = Source(store, wan_spec, parent, first_frames, begin_with)
    with joined(device) as ranks, _alone_in(out, ranks), stop_request() as stop:
        check_folder(out, resume=resume)
        ranks.wait()  # the first one writes what the others have just looked for
        place = Place(ranks, sharing, ranks.device(device))
        run = _opened(source, out, experiment, place, allow_other_store=allow_other_store)
        with closing(run):
            first, watch = run.state.step, Watchers(*(watchers if ranks.is_first else ()))
            if ranks.is_first:
                _cut_back(run)
            ranks.wait()
            _run_steps(run, stop, watch, track)
        del run  # what it shares must be gone when the processes part (see `joined`)
        ranks.wait()
        return _report(out, experiment, first, stop, watch.notes, time.perf_counter() - began)


def _alone_in(out: Path, ranks: Ranks) -> AbstractContextManager[None]:
    """One run a folder; its processes are one."""
    return write_lock(out, "run") if ranks.is_first else nullcontext()


def _opened(
    source: Source, out: Path, experiment: Experiment, place: Place, *, allow_other_store: bool
) -> Run:
    """The run, where its newest checkpoint left it."""
    newest = newest_whole(out)
    before = read_state(newest) if newest else None
    source = source.completed(newest, before)
    run = open_run(source, out, experiment, place, allow_other_store=allow_other_store)
    check_clips(run.stream)
    if newest and before:
        go_on(run, newest, before, allow_other_store=allow_other_store)
    return run


def _cut_back(run: Run) -> None:
    """Drops the lines of steps that will be done again, and notes that they are."""
    out, step = run.out, run.state.step
    with disk_faults(out):
        truncate_metrics(out, step)
        truncate_skipped(out, step)
        truncate_held_out(out, step)
        if step < run.experiment.optimiser.steps:
            note_start(out, run.state, run.place.device, run.place.ranks.world_size)


def _run_steps(run: Run, stop: StopRequest, watch: Watcher, track: Track) -> None:
    """All steps that are left, or those up to a signal."""
    first, last, held_out = run.state.step, run.experiment.optimiser.steps, open_held_out(run)
    watch.begin(run.out, first, last)
    if run.experiment.held_out.every and not held_out:
        watch.note(f"The store has no clip of split {SPLIT}: there is no held-out loss.")
    try:
        if held_out and held_out.was_missed(first):
            watch.held_out(held_out.note(first))
            if run.place.ranks.is_first:
                keep_best(run)
        steps = track(range(first, last), total=last - first, what=run.stage.name, unit="steps")
        _go(run, steps, held_out, stop, watch)
    finally:
        watch.end()
        if held_out:
            held_out.stream.close()


def _go(
    run: Run, steps: Iterable[int], held_out: HeldOut | None, stop: StopRequest, watch: Watcher
) -> None:
    """Takes these steps, and writes checkpoints on the way; returns earlier if a signal asks."""
    last, every = run.experiment.optimiser.steps, run.experiment.checkpoint_every
    done, position = run.state.step, run.stream.state_dict()
    try:
        for step in steps:
            metrics = next_step(run, step)
            done, position = step + 1, run.stream.state_dict()
            if run.place.ranks.is_first:
                append_metrics(run.out, metrics)
            watch.step(metrics)
            stopping = _is_asked(stop, run.place.ranks)
            if held_out and held_out.is_due(done) and not stopping:
                watch.held_out(held_out.note(done))
            if stopping or done == last or done % every == 0:
                watch.saved(save_run(run, done, position), done, stop)
            if stopping:
                break
    except RuntimeError as cause:
        if not is_lost_rank(cause):
            raise
        raise _lost(run, done, position) from cause


def next_step(run: Run, step: int) -> StepMetrics:
    """One step on the next batch, and how long that was waited for."""
    asked = time.perf_counter()
    batch = next(run.stream)
    return take_step(run, step, batch, data_wait_s=time.perf_counter() - asked)


def _is_asked(stop: StopRequest, ranks: Ranks) -> bool:
    """Whether a signal has reached any of the processes; all then know it."""
    if not any(ranks.total(float(stop.by is not None))):
        return False
    asked = ranks.joined_lists([int(stop.by)] if stop.by else [])
    stop.by = Signals(asked[0])
    return True


def _lost(run: Run, done: int, position: dict[str, Any]) -> RankFault:
    """Another process is gone: the first one writes what it has, if that is everything."""
    if run.place.ranks.is_first and run.place.sharing == "ddp":
        save_alone(run, done, position)
    newest = checkpoints(run.out)
    return lost_rank(run.place.ranks, str(newest[-1]) if newest else "none")


def _report(
    out: Path,
    experiment: Experiment,
    first: int,
    stop: StopRequest,
    notes: list[str],
    seconds: float,
) -> TrainReport:
    lines = read_metrics(out)
    done = lines[-1].step
    finished = done == experiment.optimiser.steps
    clips = (done - first) * experiment.batch.global_batch
    return TrainReport(
        stage=experiment.stage,
        steps=done,
        finished=finished,
        stopped_by=stop.by.name if stop.by and not finished else None,
        final_loss=lines[-1].loss,
        steps_skipped=sum(line.is_skipped for line in lines),
        losses=out / METRICS,
        checkpoint=checkpoints(out)[-1],
        seconds=seconds,
        clips_per_second=clips / seconds,
        notes=notes,
    )
