"""Every generator and variant learns: on one batch with fixed noise, its loss falls tenfold."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from exo2ego.training.build import Origin, train_in_fp32, trained_parameters
from exo2ego.training.checkpoint import CheckpointState, write_checkpoint
from exo2ego.training.describe import blank_batch
from exo2ego.training.experiment import Experiment
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.stages import STAGES, clip_generator
from stores.schema import ClipShape
from stores.stream import ClipBatch

STEPS, FALL, LR = 400, 10, 2e-3
SHAPE = ClipShape(views=3, frames=5, hw=(32, 48))
SMALL = ["precision=fp32", "batch.global_batch=2", "batch.micro_batch=2"]
GENERATOR = [*SMALL, "exo_dropout=0.0"]
LORA = ["lora.rank=32", "lora.alpha=32"]
VAWAN = [*GENERATOR, "vawan.views=3", "vawan.lora.rank=32", "vawan.lora.alpha=32"]
CASES: dict[str, tuple[str, Sequence[str]]] = {
    "multiexocon": ("multiexocon", [*GENERATOR, *LORA]),
    "learned null and positions": (
        "multiexocon",
        [*GENERATOR, *LORA, "exo.null=learned", "exo.positions={name='learned'}"],
    ),
    "poseinj concat": ("poseinj", [*GENERATOR, "pose={name='concat'}"]),
    "poseinj add": ("poseinj", [*GENERATOR, "pose={name='add'}"]),
    "poseinj per-pixel": ("poseinj", [*GENERATOR, "pose={name='per-pixel'}"]),
    "poseinj fun-fold": ("poseinj", [*GENERATOR, "pose={name='fun-fold'}"]),
    "vawan": ("vawan", [*VAWAN, "vawan.pose={name='none'}"]),
    "vawan exo-only": ("vawan", [*VAWAN, "vawan.pose={name='none'}", "vawan.layout=exo-only"]),
    "vawan whole": ("vawan", [*VAWAN, "vawan.pose={name='none'}", "vawan.training=whole"]),
    "vawan time_and_pose": ("vawan", [*VAWAN, "vawan.pose={name='time_and_pose'}"]),
    "vawan ac3d": ("vawan", [*VAWAN, "vawan.pose={name='ac3d', width=64}"]),
    "vawan ac3d shared": ("vawan", [*VAWAN, "vawan.pose={name='ac3d', width=64, shared=true}"]),
}


def random_batch(reads: Sequence[str]) -> ClipBatch:
    """Two clips of noise, with the arrays that a stage reads."""
    blank, g = blank_batch(reads, SHAPE, 2), torch.Generator().manual_seed(5)
    arrays = {read: torch.randn(a.shape, generator=g) for read, a in blank.arrays.items()}
    return replace(blank, arrays=arrays)


def learned(experiment: Experiment, wan: str, parent: Path | None) -> list[float]:
    """The loss of one batch, step by step, until it has fallen far enough."""
    stage = STAGES[experiment.stage]
    model = stage.build(Origin(experiment, wan, parent, "cpu")).model
    train_in_fp32(model)
    batch = random_batch(stage.reads(experiment))
    optimiser = torch.optim.AdamW(trained_parameters(model).values(), lr=LR, weight_decay=0.0)
    losses = []
    while len(losses) < STEPS and not (losses and losses[-1] * FALL <= losses[0]):
        generators = [clip_generator(0, 0, clip) for clip in batch.clip_ids]
        loss = stage.losses(model, batch, generators, experiment).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained_parameters(model).values(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def parent(wan_256: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of multiexocon at its start, for poseinj to go on from."""
    experiment, run = load_experiment(*CASES["multiexocon"]), tmp_path_factory.mktemp("parent")
    built = STAGES["multiexocon"].build(Origin(experiment, wan_256, None, "cpu"))
    state = CheckpointState(
        stage="multiexocon",
        step=0,
        store_hash="0",
        experiment=experiment.model_dump(mode="json"),
        experiment_digest=experiment.digest,
        stream={},
        parent=None,
        wan=built.wan,
        first_frames="0",
    )
    weights = {name: p.detach() for name, p in trained_parameters(built.model).items()}
    write_checkpoint(run, state, weights, {})
    return run


@pytest.mark.parametrize("name", CASES)
def test_one_batch_is_learned(name: str, wan_256: str, parent: Path) -> None:
    experiment = load_experiment(*CASES[name])
    losses = learned(experiment, wan_256, parent if experiment.stage == "poseinj" else None)
    print(f"{name}: {losses[0]:.3f} to {losses[-1]:.4f} in {len(losses)} steps")
    assert losses[-1] * FALL <= losses[0]
