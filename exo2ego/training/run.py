"""A training run between its steps: model, optimiser, stream, and what a checkpoint says of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from exo2ego.model.wan_memory import spare_training_memory
from exo2ego.training.best import note_best
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
    optimiser_tensors,
    read_state,
    read_weights,
    remove_old,
    restore_optimiser,
    write_checkpoint,
)
from exo2ego.training.checkpoint_faults import room_for_checkpoint
from exo2ego.training.experiment import DiffusionExperiment, Experiment
from exo2ego.training.first_frames import FIRST_FRAMES, open_first_frames
from exo2ego.training.lineage import Source, check_same_run, check_same_store
from exo2ego.training.optimiser import make_optimiser
from exo2ego.training.stages import STAGES, Stage
from stores.stream import ClipStream


@dataclass(eq=False)
class Run:
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


def open_run(
    source: Source, out: Path, experiment: Experiment, device: str, *, allow_other_store: bool
) -> Run:
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
    optimiser = make_optimiser(parameters, experiment.optimiser)
    model = built.model.train()
    return Run(stage, experiment, out, device, model, parameters, optimiser, stream, state)


def go_on(run: Run, folder: Path, before: CheckpointState, *, allow_other_store: bool) -> None:
    """Puts the run where the checkpoint in `folder` left it."""
    check_same_run(folder, before, run.state, allow_other_store=allow_other_store)
    put_weights(run.model, read_weights(folder), folder)
    restore_optimiser(run.optimiser, list(run.parameters), folder)
    # another store, if allowed, has an order of its own; only the step goes on
    own = {key: run.state.stream[key] for key in ("hash", "clips")} if allow_other_store else {}
    run.stream.load_state_dict(before.stream | own)
    run.state = run.state.model_copy(update={"step": before.step})


def save_run(run: Run, step: int) -> Path:
    """Writes the checkpoint of `step` and removes those that are too old; returns its folder."""
    state = run.state.model_copy(update={"step": step, "stream": run.stream.state_dict()})
    slots = optimiser_tensors(run.optimiser, list(run.parameters))
    weights = {name: parameter.detach() for name, parameter in run.parameters.items()}
    with room_for_checkpoint(run.out):
        folder = write_checkpoint(run.out, state, weights, slots)
        remove_old(run.out, run.experiment.keep_checkpoints, keep_best(run))
    return folder


def keep_best(run: Run) -> Path | None:
    """Notes which checkpoint is the best one and returns its folder; None if none is kept."""
    return note_best(run.out) if run.experiment.keep_best else None
