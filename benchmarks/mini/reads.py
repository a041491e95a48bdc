"""What a stage reads of a clip: how its loss rises with exo videos or rays of another take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from exo2ego.evaluation.reproduce.settings import ALIGN
from exo2ego.training.checkpoint import find_checkpoint, read_state
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
_NEITHER = ("ego_latents", "first_frames/")
"""Beginnings of names: exo videos, and what is neither these nor rays."""


@dataclass(frozen=True)
class Losses:
    """Means over clips and, of a generator, noise levels; its noise is the same every time."""

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
    experiment = parse_experiment(state.experiment, where=folder)
    stage, model = STAGES[state.stage], load_model(folder, wan_spec=None, device="cpu")
    reads, frames = stage.reads(experiment), state.first_frames
    levels = (None,) if state.stage == ALIGN else SIGMAS
    stream = ClipStream(
        store,
        reads,
        batch_size=BATCH,
        seed=0,
        clip_ids=_one_a_take(store, split),
        derived={FIRST_FRAMES: frames} if frames else {},
    )

    def mean(exchanged: Sequence[str] = ()) -> float:
        losses = list[Tensor]()
        with torch.no_grad(), arithmetic(experiment.precision, "cpu"):
            for batch in _batches(stream, exchanged):
                losses += [stage.held_out(model, batch, level, experiment) for level in levels]
        return torch.cat(losses).mean().item()

    exo = [name for name in reads if name.startswith(EXO)]
    rays = [name for name in reads if not name.startswith((EXO, *_NEITHER))]
    return Losses(split, len(stream.clip_ids), mean(), mean(exo), mean(rays) if rays else None)


def _one_a_take(store: Store, split: str) -> list[str]:
    takes = {store.row(clip).take_name: clip for clip in reversed(store.select(split=split))}
    return evenly(sorted(takes.values()), MOST)


def _batches(stream: ClipStream, exchanged: Sequence[str]) -> Iterator[ClipBatch]:
    """The clips, with these arrays from the clip half of all clips further on."""
    own, half = stream.clip_ids, len(stream.clip_ids) // 2
    others = own[half:] + own[:half]
    for first in range(0, len(own), BATCH):
        some = slice(first, first + BATCH)
        batch = stream.batch_of(own[some])
        if exchanged:
            there = stream.batch_of(others[some])
            of_others = {name: there[name] for name in exchanged}
            batch = replace(batch, arrays=batch.arrays | of_others)
        yield batch
