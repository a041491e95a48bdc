"""What a generator reads of a clip: how its loss rises with exo videos or rays of another take."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from exo2ego.training.checkpoint import find_checkpoint, read_state
from exo2ego.training.experiment import DiffusionExperiment
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.first_frames import FIRST_FRAMES
from exo2ego.training.held_out import evenly
from exo2ego.training.stages import STAGES, arithmetic, load_model
from stores.reading import Store
from stores.stream import ClipBatch, ClipStream

SIGMAS = (0.3, 0.6, 0.9)
"""Noise levels: the loss is their mean."""
MOST, BATCH = 104, 26
"""Clips, each of another take, and how many at a time."""
EXO = "exo_latents"


@dataclass(frozen=True)
class Losses:
    """Means over clips and noise levels; a clip's noise is the same every time."""

    split: str
    clips: int
    as_it_is: float
    other_exo: float
    """With another take's exo videos."""
    other_rays: float | None
    """With another take's rays; None if the model reads none."""


def losses_of(run: Path, store: Store, split: str) -> Losses:
    """Losses of a run's newest checkpoint on a split, one clip a take, evenly over its takes."""
    folder = find_checkpoint(run)
    state = read_state(folder)
    experiment = cast(DiffusionExperiment, parse_experiment(state.experiment, where=folder))
    stage, model = STAGES[state.stage], load_model(folder, wan_spec=None, device="cpu")
    frames = state.first_frames
    stream = ClipStream(
        store,
        stage.reads(experiment),
        batch_size=BATCH,
        seed=0,
        clip_ids=_one_a_take(store, split),
        derived={FIRST_FRAMES: frames} if frames else {},
    )

    def mean(exchanged: str | None = None) -> float:
        losses = list[Tensor]()
        with torch.no_grad(), arithmetic(experiment.precision, "cpu"):
            for batch in _batches(stream, exchanged):
                losses += [stage.held_out(model, batch, sigma, experiment) for sigma in SIGMAS]
        return torch.cat(losses).mean().item()

    rays = experiment.pose_reads
    return Losses(split, len(stream.clip_ids), mean(), mean(EXO), mean(rays) if rays else None)


def _one_a_take(store: Store, split: str) -> list[str]:
    takes = {store.row(clip).take_name: clip for clip in reversed(store.select(split=split))}
    return evenly(sorted(takes.values()), MOST)


def _batches(stream: ClipStream, exchanged: str | None) -> Iterator[ClipBatch]:
    """The clips, with one of their arrays from the clip half of all clips further on."""
    own, half = stream.clip_ids, len(stream.clip_ids) // 2
    others = own[half:] + own[:half]
    for first in range(0, len(own), BATCH):
        some = slice(first, first + BATCH)
        batch = stream.batch_of(own[some])
        if exchanged:
            there = stream.batch_of(others[some])[exchanged]
            batch = replace(batch, arrays=batch.arrays | {exchanged: there})
        yield batch
