"""One optimiser step of a run: its batch in parts, the loss of each clip, and what is noted."""

import math
import time
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.distributed.tensor import DTensor

from exo2ego.training.losses import StepMetrics
from exo2ego.training.nan_guard import SkippedStep, note_skipped, too_many
from exo2ego.training.optimiser import learning_rate
from exo2ego.training.parallel import without_exchange
from exo2ego.training.run import Run
from exo2ego.training.stages import arithmetic, clip_generator
from stores.stream import ClipBatch


def take_step(run: Run, step: int, batch: ClipBatch, *, data_wait_s: float) -> StepMetrics:
    """One optimiser step of all processes, and what is noted of it.

    Without a finite loss and gradient, weights and optimiser stay as they were; TrainingFault if
    that happens too often.
    """
    began, ranks = time.perf_counter(), run.place.ranks
    clips = len(batch.clip_ids) * ranks.world_size
    own_loss, wrong = _add_gradients(run, step, batch, clips)
    loss, all_wrong = ranks.total(own_loss, float(len(wrong)))
    norm, lr = _clipped_norm(run), learning_rate(run.experiment.optimiser, step)
    learns = not all_wrong and math.isfinite(norm)
    if learns:
        run.optimiser.step(lr)
        if run.ema:
            run.ema.update(step)
    else:
        run.optimiser.forget()
    seconds = time.perf_counter() - began
    if not learns:
        _skip(run, step, "loss" if all_wrong else "gradient", wrong, batch)
    return StepMetrics(
        step=step + 1,
        loss=loss if learns else None,
        lr=lr,
        grad_norm=norm if learns else None,
        clips_per_s=clips / seconds,
        data_wait_s=data_wait_s,
        step_s=seconds,
    )


def _skip(run: Run, step: int, what: str, wrong: list[str], batch: ClipBatch) -> None:
    """Writes down what all processes found. Raises TrainingFault if it is one step too many."""
    ranks = run.place.ranks
    clip_ids = ranks.joined_lists(wrong if what == "loss" else batch.clip_ids)
    skipped = SkippedStep(step + 1, what, clip_ids)
    in_a_row = note_skipped(run.out, skipped) if ranks.is_first else 0
    if ranks.total(float(in_a_row))[0] >= run.experiment.nan.stop_after:
        raise too_many(run.out, skipped, run.experiment.nan)


def _add_gradients(run: Run, step: int, batch: ClipBatch, clips: int) -> tuple[float, list[str]]:
    """This process's share of the mean loss over so many clips; its gradients are added up.

    And its clips whose loss is not a number.
    """
    size, world_size = run.experiment.batch.micro_batch, run.place.ranks.world_size
    starts, loss, wrong = range(0, len(batch.clip_ids), size), 0.0, []
    for start in starts:
        part = some_clips(batch, slice(start, start + size), run.place.device)
        with without_exchange(run.called) if start != starts[-1] else nullcontext():
            with _kept_for_backward(run):
                losses = _micro_losses(run, step, part)
            share = losses.sum() / clips
            # exchanged gradients are means over the processes, and here sums are meant
            (share * world_size if world_size > 1 else share).backward()
        loss += share.item()
        wrong += _not_finite(losses, part.clip_ids)
    return loss, wrong


def _kept_for_backward(run: Run) -> AbstractContextManager[object]:
    """Where a forward pass leaves what its backward pass needs."""
    if run.experiment.activations_on_host:
        return save_on_cpu(pin_memory=torch.device(run.place.device).type == "cuda")
    return nullcontext()


def _clipped_norm(run: Run) -> float:
    """Norm of all gradients, the same on all processes; afterwards it is at most `clip_norm`."""
    most = run.experiment.optimiser.clip_norm
    norm = nn.utils.clip_grad_norm_(run.parameters.values(), most)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()


def _micro_losses(run: Run, step: int, batch: ClipBatch) -> Float[Tensor, " b"]:
    """Loss of each clip of one forward pass."""
    seed = run.experiment.seed
    generators = [clip_generator(seed, step, clip_id) for clip_id in batch.clip_ids]
    with arithmetic(run.experiment.precision, run.place.device):
        return run.stage.losses(run.called, batch, generators, run.experiment)


def some_clips(batch: ClipBatch, part: slice, device: str) -> ClipBatch:
    """Some clips of a batch, on the device."""
    arrays = {
        name: value[part].to(device, non_blocking=True) for name, value in batch.arrays.items()
    }
    return ClipBatch(batch.clip_ids[part], arrays, batch.views[part])


def _not_finite(losses: Float[Tensor, " b"], clip_ids: list[str]) -> list[str]:
    """Clips whose loss is NaN or infinite."""
    finite = losses.isfinite().tolist()
    return [clip for clip, fine in zip(clip_ids, finite, strict=True) if not fine]
