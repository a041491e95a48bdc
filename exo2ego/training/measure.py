"""Measures a run's held-out loss: nothing is drawn, nothing is learned, the model trains on."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from exo2ego.training.experiment import DiffusionExperiment
from exo2ego.training.first_frames import FIRST_FRAMES
from exo2ego.training.held_out import (
    SPLIT,
    HeldOutLoss,
    append_held_out,
    evenly,
    held_out_loss,
    read_held_out,
)
from exo2ego.training.run import Run
from exo2ego.training.stages import arithmetic
from exo2ego.training.step import some_clips
from stores.stream import ClipBatch, ClipStream


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Clips that are not trained on, ready to be measured."""

    run: Run
    stream: ClipStream

    def is_due(self, step: int) -> bool:
        """Whether it is to be measured after so many steps; after the last one in any case."""
        experiment = self.run.experiment
        return step % experiment.held_out.every == 0 or step == experiment.optimiser.steps

    def was_missed(self, step: int) -> bool:
        """Whether a signal stopped the run after a step before it could be measured."""
        measured = {line.step for line in read_held_out(self.run.out)}
        return step > 0 and self.is_due(step) and step not in measured

    def note(self, step: int) -> HeldOutLoss:
        """Measures, adds the line to the run's held_out.jsonl and returns it."""
        line = self.measure(step)
        if self.run.place.ranks.is_first:
            append_held_out(self.run.out, line)
        return line

    def measure(self, step: int) -> HeldOutLoss:
        """The loss of the model as it is; it is in training mode afterwards.

        Processes divide the clips, and all have the whole loss.
        """
        began, ranks = time.perf_counter(), self.run.place.ranks
        own = self.stream.clip_ids[ranks.rank :: ranks.world_size]
        parts: dict[float | None, list[Float[Tensor, " b"]]] = {}
        self.run.model.eval()
        with torch.no_grad():
            for batch in self._batches(own):
                for sigma in _levels(self.run):
                    parts.setdefault(sigma, []).append(self._losses(batch, sigma))
        self.run.model.train()
        losses = {}
        for sigma, of in parts.items():
            everyones = ranks.joined_lists(torch.cat(of).tolist()[: len(own)])
            losses[sigma] = torch.tensor(everyones, dtype=torch.float64)
        return held_out_loss(step, losses, began)

    def _batches(self, own: list[str]) -> Iterator[ClipBatch]:
        """This process's clips; it ends with clips again where others have one more.

        With FSDP all processes have to call the model equally often.
        """
        size, every = self.run.experiment.batch.micro_batch, self.stream.clip_ids
        most = -(-len(every) // self.run.place.ranks.world_size)
        filled = [*own, *every][:most]
        for first in range(0, most, size):
            batch = self.stream.batch_of(filled[first : first + size])
            yield some_clips(batch, slice(None), self.run.place.device)

    def _losses(self, batch: ClipBatch, sigma: float | None) -> Float[Tensor, " b"]:
        run = self.run
        with arithmetic(run.experiment.precision, run.place.device):
            return run.stage.held_out(run.model, batch, sigma, run.experiment)


def open_held_out(run: Run) -> HeldOut | None:
    """The run's held-out clips; None if its store has none, or its experiment wants none."""
    settings, store = run.experiment.held_out, run.stream.store
    clip_ids = evenly(store.select(split=SPLIT), settings.clips)
    if not (settings.every and clip_ids):
        return None
    frames = run.state.first_frames
    stream = ClipStream(
        store,
        run.stage.reads(run.experiment),
        batch_size=run.experiment.batch.micro_batch,
        seed=run.experiment.seed,
        clip_ids=clip_ids,
        derived={FIRST_FRAMES: frames} if frames else {},
    )
    return HeldOut(run, stream)


def _levels(run: Run) -> tuple[float | None, ...]:
    """Noise levels; None for a stage without noise."""
    experiment = run.experiment
    return experiment.held_out.sigmas if isinstance(experiment, DiffusionExperiment) else (None,)
