"""A training run between its steps: model, optimiser, stream, and what a checkpoint says of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from exo2ego.model.wan_memory import spare_training_memory
from exo2ego.training.best import note_best
from exo2ego.training.build import (
    Built,
    Origin,
    parent_of,
    put_weights,
    train_in_fp32,
    trained_parameters,
)
from exo2ego.training.checkpoint import (
    CheckpointFault,
    CheckpointState,
    checkpoint_folder,
    find_checkpoint,
    read_optimiser,
    read_state,
    read_weights,
    remove_old,
    write_checkpoint,
)
from exo2ego.training.checkpoint_faults import room_for_checkpoint
from exo2ego.training.ema import Ema
from exo2ego.training.experiment import DiffusionExperiment, Experiment
from exo2ego.training.first_frames import FIRST_FRAMES, open_first_frames
from exo2ego.training.lineage import Source, check_same_run, check_same_store
from exo2ego.training.optimiser import AdamW
from exo2ego.training.parallel import (
    ALONE,
    RankFault,
    Ranks,
    Sharing,
    blocks_of,
    held,
    share,
    stop_sharing,
    whole_tensors,
)
from exo2ego.training.stages import STAGES, Stage
from stores.stream import ClipStream


@dataclass(frozen=True)
class Place:
    """Where a run happens: which process of how many, how they share, and on what device."""

    ranks: Ranks = ALONE
    sharing: Sharing = "ddp"
    device: str = "cpu"


@dataclass(eq=False)
class Run:
    """What the loop carries from step to step."""

    stage: Stage
    experiment: Experiment
    out: Path
    place: Place
    model: nn.Module
    called: nn.Module
    """The model as it is called in training: itself, or what shares it among processes."""
    parameters: dict[str, nn.Parameter]
    optimiser: AdamW
    ema: Ema | None
    stream: ClipStream
    state: CheckpointState
    """What the next checkpoint says, but for its step and the stream's position."""

    def close(self) -> None:
        """Ends the stream, and the sharing among processes (see `joined`)."""
        self.stream.close()
        self.called = self.model
        stop_sharing(self.parameters.values())


def open_run(
    source: Source, out: Path, experiment: Experiment, place: Place, *, allow_other_store: bool
) -> Run:
    """The run before its first step."""
    stage, device = STAGES[experiment.stage], place.device
    built = stage.build(Origin(experiment, source.wan_spec, source.parent, device))
    if built.parent:
        check_same_store(
            built.parent, read_state(built.parent), source.store.hash, allow_other_store
        )
    began_with = _begin(built.model, source, stage)
    called = _ready(built, experiment, place)
    stream, frames = _open_stream(source, stage, experiment, place)
    parameters = trained_parameters(built.model)
    return Run(
        stage=stage,
        experiment=experiment,
        out=out,
        place=place,
        model=built.model,
        called=called,
        parameters=parameters,
        optimiser=AdamW(parameters, experiment.optimiser),
        ema=Ema(parameters, experiment.ema_decay) if experiment.ema_decay else None,
        stream=stream,
        state=CheckpointState(
            stage=stage.name,
            step=0,
            store_hash=source.store.hash,
            experiment=experiment.model_dump(mode="json"),
            experiment_digest=experiment.digest,
            stream=stream.state_dict(),
            parent=parent_of(built, checkpoint_folder(out, 0)),
            wan=built.wan,
            first_frames=frames,
            began_with=began_with,
        ),
    )


def _begin(model: nn.Module, source: Source, stage: Stage) -> str | None:
    """Puts the weights of another run in the place of fresh ones; returns their digest.

    Raises CheckpointFault if they are of another stage, or do not fit.
    """
    if source.begin_with is None:
        return None
    folder = find_checkpoint(source.begin_with)
    state = read_state(folder)
    if state.stage != stage.name:
        raise CheckpointFault(
            "A run begins with the weights of its own stage alone.",
            where=f"--begin-with {source.begin_with}",
            expected=f"a run of stage {stage.name}",
            got=f"one of stage {state.stage}",
            fix="Name another run; poseinj goes on from a multiexocon run with --from.",
        )
    weights, wanted = read_weights(folder), trained_parameters(model)
    if set(weights) != set(wanted):
        other = sorted(set(weights) ^ set(wanted))
        raise CheckpointFault(
            "These weights are of a model that trains something else.",
            where=f"--begin-with {source.begin_with}, {other[0]}",
            expected=f"the {len(wanted)} tensors that this experiment trains",
            got=f"{len(weights)} tensors; {len(other)} are in one of the two alone",
            fix="Train with the experiment of that run (exo2ego audit RUN shows it).",
        )
    put_weights(model, weights, folder)
    return state.weights_digest


def _ready(built: Built, experiment: Experiment, place: Place) -> nn.Module:
    """The model as it is called in training: in its types and memory, compiled, and shared."""
    train_in_fp32(built.model)
    if isinstance(experiment, DiffusionExperiment):
        _check_base(experiment, place)
        spare_training_memory(cast(Any, built.model).wan, experiment.memory)
    if experiment.compile == "blocks":
        for block in blocks_of(built.model):
            block.compile()
    return share(built.model.train(), place.ranks, place.sharing)


def _check_base(experiment: DiffusionExperiment, place: Place) -> None:
    """Raises RankFault for parts of float8 weights."""
    in_parts = place.sharing == "fsdp" and place.ranks.world_size > 1
    if in_parts and experiment.memory.base == "fp8":
        raise RankFault(
            "Weights in float8 cannot be shared in parts.",
            where="memory.base, --parallel fsdp",
            expected="base = full with fsdp, or ddp",
            got="base = fp8",
            fix="Pass --set memory.base=full (parts are small), or --parallel ddp.",
        )


def _open_stream(
    source: Source, stage: Stage, experiment: Experiment, place: Place
) -> tuple[ClipStream, str | None]:
    """This process's clips, and the digest of the first frames that come with them."""
    frames = None
    if isinstance(experiment, DiffusionExperiment):
        frames = open_first_frames(source.store, source.first_frames, experiment.condition).digest
    stream = ClipStream(
        source.store,
        stage.reads(experiment),
        batch_size=place.ranks.clips(experiment.batch),
        seed=experiment.seed,
        rank=place.ranks.rank,
        world_size=place.ranks.world_size,
        derived={FIRST_FRAMES: frames} if frames else {},
        pin_memory=torch.device(place.device).type == "cuda",
    )
    return stream, frames


def go_on(run: Run, folder: Path, before: CheckpointState, *, allow_other_store: bool) -> None:
    """Puts the run where the checkpoint in `folder` left it."""
    if run.state.began_with is None:  # who goes on need not say it again
        run.state = run.state.model_copy(update={"began_with": before.began_with})
    check_same_run(folder, before, run.state, allow_other_store=allow_other_store)
    put_weights(run.model, read_weights(folder), folder)
    run.optimiser.restore(read_optimiser(folder))
    if run.ema:
        run.ema.restore(read_weights(folder, ema=True))
    # another store, if allowed, has an order of its own; only the step goes on
    own = {key: run.state.stream[key] for key in ("hash", "clips")} if allow_other_store else {}
    run.stream.load_state_dict(before.stream | own)
    run.state = run.state.model_copy(update={"step": before.step})


def save_run(run: Run, step: int, position: dict[str, Any]) -> Path:
    """Writes the checkpoint of `step`, with the stream's position, and removes older ones.

    All processes must call this; the first one writes. Returns its folder.
    """
    return _write(run, step, position, whole_tensors)


def save_alone(run: Run, step: int, position: dict[str, Any]) -> Path:
    """Writes the checkpoint of a process that has everything, without asking the others."""
    return _write(run, step, position, lambda parts, _: parts)


def keep_best(run: Run) -> Path | None:
    """Notes which checkpoint is the best one and returns its folder; None if none is kept."""
    return note_best(run.out) if run.experiment.keep_best else None


def _write(
    run: Run,
    step: int,
    position: dict[str, Any],
    gather: Callable[[dict[str, Tensor], dict[str, nn.Parameter]], dict[str, Tensor]],
) -> Path:
    parameters = run.parameters
    weights = gather({name: held(p).detach() for name, p in parameters.items()}, parameters)
    slots = gather(run.optimiser.slots(), parameters)
    ema = gather(run.ema.average, parameters) if run.ema else None
    if run.place.ranks.is_first:
        state = run.state.model_copy(update={"step": step, "stream": position})
        with room_for_checkpoint(run.out):
            write_checkpoint(run.out, state, weights, slots, ema)
            remove_old(run.out, run.experiment.keep_checkpoints, keep_best(run))
    return checkpoint_folder(run.out, step)
