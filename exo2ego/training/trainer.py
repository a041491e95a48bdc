"""The training loop, one for all stages: exact, resumable, stopped cleanly by a signal."""

import math
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from exo2ego.model.wan_memory import spare_training_memory
from exo2ego.training.build import (
    Origin,
    parent_of,
    put_weights,
    train_in_fp32,
    trained_parameters,
)
from exo2ego.training.checkpoint import (
    CheckpointState,
    checkpoint_folder,
    checkpoints,
    optimiser_tensors,
    read_state,
    read_weights,
    remove_old,
    restore_optimiser,
    write_checkpoint,
)
from exo2ego.training.experiment import DiffusionExperiment, Experiment, OptimiserSettings
from exo2ego.training.first_frames import FIRST_FRAMES, open_first_frames
from exo2ego.training.history import note_start
from exo2ego.training.interrupt import stop_request
from exo2ego.training.lineage import Source, check_same_run, check_same_store
from exo2ego.training.losses import (
    METRICS,
    StepMetrics,
    append_metrics,
    read_metrics,
    truncate_metrics,
)
from exo2ego.training.stages import STAGES, Stage, arithmetic, clip_generator
from stores.errors import UserFault
from stores.progress import Track, silent
from stores.reading import Store
from stores.stream import ClipBatch, ClipStream


class TrainingFault(UserFault, ArithmeticError):
    """A run that cannot start as asked, or a loss or gradient that is not a number."""


@dataclass(frozen=True)
class TrainReport:
    """What a call of `train` did."""

    stage: str
    steps: int
    """Steps that the run has done in all."""
    finished: bool
    """False if a signal stopped it before its last step."""
    final_loss: float
    losses: Path
    checkpoint: Path
    seconds: float
    clips_per_second: float
    """Of this call alone, checkpoints included."""


@dataclass(eq=False)
class _Run:
    """What the loop carries from step to step."""

    stage: Stage
    experiment: Experiment
    out: Path
    device: str
    model: nn.Module
    parameters: dict[str, nn.Parameter]
    optimiser: torch.optim.Optimizer
    stream: ClipStream
    state: CheckpointState
    """What the next checkpoint says, but for its step and the stream's position."""


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
) -> TrainReport:
    """Trains `stage` on the store's train split into the folder `out`, up to the last step.

    `first_frames` (a digest's beginning) chooses among several of Align's predictions. With
    `resume` the run goes on from its newest checkpoint (or starts, if there is none yet), and
    its losses and weights are those of a run that was never stopped. Ctrl-C and SIGTERM end the
    current step, write a checkpoint and return; a second signal kills. Raises a UserFault for
    another store, experiment, stage or Wan than the run's, and TrainingFault for NaN.
    """
    began = time.perf_counter()
    _check_start(stage, experiment, out, resume=resume)
    newest = checkpoints(out)[-1] if checkpoints(out) else None
    before = read_state(newest) if newest else None
    source = Source(store, wan_spec, parent, first_frames).completed(newest, before)
    run = _open(source, out, experiment, device, allow_other_store=allow_other_store)
    if newest and before:
        _go_on(run, newest, before, allow_other_store=allow_other_store)
    first, last = run.state.step, experiment.optimiser.steps
    truncate_metrics(out, first)
    if first < last:
        note_start(out, run.state, device)
    with stop_request() as stop, closing(run.stream):
        for step in track(range(first, last), total=last - first, what=stage, unit="steps"):
            append_metrics(out, _step(run, step, next(run.stream)))
            done, stopping = step + 1, stop.is_set()
            if stopping or done == last or done % experiment.checkpoint_every == 0:
                _save(run, done)
            if stopping:
                break
    return _report(run, first, time.perf_counter() - began)


def learning_rate(settings: OptimiserSettings, step: int) -> float:
    """Of step 0, 1, ...: linear warm-up to `lr`, then half a cosine to `min_lr` at the end."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    passed = (step - settings.warmup_steps) / max(1, settings.steps - 1 - settings.warmup_steps)
    return settings.min_lr + (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * passed)) / 2


def _check_start(stage: str, experiment: Experiment, out: Path, *, resume: bool) -> None:
    """Raises TrainingFault if stage and experiment differ, or a run would be overwritten."""
    if stage != experiment.stage:
        raise TrainingFault(
            "The experiment is of another stage.",
            where=f"train {stage}",
            expected=f"an experiment of stage {stage}",
            got=f"one of stage {experiment.stage}",
            fix=f"Use `train {experiment.stage}`, or another experiment.",
        )
    if not resume and (out / METRICS).exists():
        raise TrainingFault(
            "There is a run in this folder already.",
            where=out,
            expected="a new or empty folder",
            got=f"{METRICS} and {len(checkpoints(out))} checkpoints",
            fix="Pass --resume to go on with it, or another --out.",
        )


def _open(
    source: Source, out: Path, experiment: Experiment, device: str, *, allow_other_store: bool
) -> _Run:
    """The run before its first step."""
    stage = STAGES[experiment.stage]
    built = stage.build(Origin(experiment, source.wan_spec, source.parent, device))
    train_in_fp32(built.model)
    if isinstance(experiment, DiffusionExperiment):
        spare_training_memory(cast(Any, built.model).wan, experiment.memory)
    if built.parent:
        check_same_store(
            built.parent, read_state(built.parent), source.store.hash, allow_other_store
        )
    frames = None
    if isinstance(experiment, DiffusionExperiment):
        frames = open_first_frames(source.store, source.first_frames, experiment.condition).digest
    stream = ClipStream(
        source.store,
        stage.reads(experiment),
        batch_size=experiment.batch.global_batch,
        seed=experiment.seed,
        derived={FIRST_FRAMES: frames} if frames else {},
        pin_memory=torch.device(device).type == "cuda",
    )
    state = CheckpointState(
        stage=stage.name,
        step=0,
        store_hash=source.store.hash,
        experiment=experiment.model_dump(mode="json"),
        experiment_digest=experiment.digest,
        stream=stream.state_dict(),
        parent=parent_of(built, checkpoint_folder(out, 0)),
        wan=built.wan,
        first_frames=frames,
    )
    parameters = trained_parameters(built.model)
    optimiser = _optimiser(parameters, experiment.optimiser)
    model = built.model.train()
    return _Run(stage, experiment, out, device, model, parameters, optimiser, stream, state)


def _optimiser(
    parameters: dict[str, nn.Parameter], settings: OptimiserSettings
) -> torch.optim.Optimizer:
    """AdamW on all that trains."""
    return torch.optim.AdamW(
        parameters.values(),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


def _go_on(run: _Run, folder: Path, before: CheckpointState, *, allow_other_store: bool) -> None:
    """Puts the run where the checkpoint in `folder` left it."""
    check_same_run(folder, before, run.state, allow_other_store=allow_other_store)
    put_weights(run.model, read_weights(folder), folder)
    restore_optimiser(run.optimiser, list(run.parameters), folder)
    # another store, if allowed, has an order of its own; only the step goes on
    own = {key: run.state.stream[key] for key in ("hash", "clips")} if allow_other_store else {}
    run.stream.load_state_dict(before.stream | own)
    run.state = run.state.model_copy(update={"step": before.step})


def _step(run: _Run, step: int, batch: ClipBatch) -> StepMetrics:
    """One optimiser step, and what is noted of it."""
    began, settings = time.perf_counter(), run.experiment.optimiser
    clips, loss = len(batch.clip_ids), 0.0
    size = run.experiment.batch.micro_batch
    for start in range(0, clips, size):
        losses = _micro_losses(run, step, _part(batch, slice(start, start + size), run.device))
        share = losses.sum() / clips
        share.backward()
        loss += share.item()
    norm = nn.utils.clip_grad_norm_(run.parameters.values(), settings.clip_norm)
    if not norm.isfinite():
        raise _not_finite(run, batch.clip_ids, f"gradient of step {step + 1}")
    lr = learning_rate(settings, step)
    for group in run.optimiser.param_groups:
        group["lr"] = lr
    run.optimiser.step()
    run.optimiser.zero_grad(set_to_none=True)
    rate = clips / (time.perf_counter() - began)
    return StepMetrics(step + 1, loss, lr, norm.item(), rate)


def _micro_losses(run: _Run, step: int, batch: ClipBatch) -> Float[Tensor, " b"]:
    """Loss of each clip of one forward pass. Raises TrainingFault, with the clips, for NaN."""
    seed = run.experiment.seed
    generators = [clip_generator(seed, step, clip_id) for clip_id in batch.clip_ids]
    with arithmetic(run.experiment.precision, run.device):
        losses = run.stage.losses(run.model, batch, generators, run.experiment)
    finite = losses.isfinite().tolist()
    wrong = [clip for clip, fine in zip(batch.clip_ids, finite, strict=True) if not fine]
    if wrong:
        raise _not_finite(run, wrong, f"loss of step {step + 1}")
    return losses


def _part(batch: ClipBatch, part: slice, device: str) -> ClipBatch:
    """Some clips of a batch, on the device."""
    arrays = {
        name: value[part].to(device, non_blocking=True) for name, value in batch.arrays.items()
    }
    return ClipBatch(batch.clip_ids[part], arrays, batch.views[part])


def _not_finite(run: _Run, clip_ids: list[str], what: str) -> TrainingFault:
    newest = checkpoints(run.out)
    return TrainingFault(
        f"The {what} is not a number.",
        where=f"{run.out}, clips {', '.join(clip_ids)}",
        expected="a finite number",
        got="NaN or infinity",
        fix="Look at these clips; lower optimiser.lr, or use precision=fp32. "
        f"The newest checkpoint is {newest[-1].name if newest else 'none'}.",
    )


def _save(run: _Run, step: int) -> None:
    """Writes the checkpoint of `step` and removes those that are too old."""
    state = run.state.model_copy(update={"step": step, "stream": run.stream.state_dict()})
    slots = optimiser_tensors(run.optimiser, list(run.parameters))
    weights = {name: parameter.detach() for name, parameter in run.parameters.items()}
    write_checkpoint(run.out, state, weights, slots)
    remove_old(run.out, run.experiment.keep_checkpoints)


def _report(run: _Run, first: int, seconds: float) -> TrainReport:
    lines = read_metrics(run.out)
    done = lines[-1].step
    clips = (done - first) * run.experiment.batch.global_batch
    return TrainReport(
        stage=run.stage.name,
        steps=done,
        finished=done == run.experiment.optimiser.steps,
        final_loss=lines[-1].loss,
        losses=run.out / METRICS,
        checkpoint=checkpoints(run.out)[-1],
        seconds=seconds,
        clips_per_second=clips / seconds,
    )
