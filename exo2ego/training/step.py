"""One optimiser step of a run: its batch in parts, the loss of each clip, and what is noted."""

import time

from jaxtyping import Float
from torch import Tensor, nn

from exo2ego.training.losses import StepMetrics
from exo2ego.training.nan_guard import SkippedStep, note_skipped
from exo2ego.training.optimiser import learning_rate
from exo2ego.training.run import Run
from exo2ego.training.stages import arithmetic, clip_generator
from stores.stream import ClipBatch


def take_step(run: Run, step: int, batch: ClipBatch, *, data_wait_s: float) -> StepMetrics:
    """One optimiser step, and what is noted of it.

    Without a finite loss and gradient, weights and optimiser stay as they were; TrainingFault if
    that happens too often.
    """
    began, settings = time.perf_counter(), run.experiment.optimiser
    clips, loss, wrong = len(batch.clip_ids), 0.0, []
    size = run.experiment.batch.micro_batch
    for start in range(0, clips, size):
        part = part_of(batch, slice(start, start + size), run.device)
        losses = _micro_losses(run, step, part)
        share = losses.sum() / clips
        share.backward()
        loss += share.item()
        wrong += _not_finite(losses, part.clip_ids)
    norm = nn.utils.clip_grad_norm_(run.parameters.values(), settings.clip_norm)
    lr = learning_rate(settings, step)
    learns = not wrong and bool(norm.isfinite())
    if learns:
        for group in run.optimiser.param_groups:
            group["lr"] = lr
        run.optimiser.step()
    run.optimiser.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - began
    if not learns:
        what = "loss" if wrong else "gradient"
        skipped = SkippedStep(step + 1, what, wrong or batch.clip_ids)
        note_skipped(run.out, skipped, run.experiment.nan)
    return StepMetrics(
        step=step + 1,
        loss=loss if learns else None,
        lr=lr,
        grad_norm=norm.item() if learns else None,
        clips_per_s=clips / seconds,
        data_wait_s=data_wait_s,
        step_s=seconds,
    )


def _micro_losses(run: Run, step: int, batch: ClipBatch) -> Float[Tensor, " b"]:
    """Loss of each clip of one forward pass."""
    seed = run.experiment.seed
    generators = [clip_generator(seed, step, clip_id) for clip_id in batch.clip_ids]
    with arithmetic(run.experiment.precision, run.device):
        return run.stage.losses(run.model, batch, generators, run.experiment)


def part_of(batch: ClipBatch, part: slice, device: str) -> ClipBatch:
    """Some clips of a batch, on the device."""
    arrays = {
        name: value[part].to(device, non_blocking=True) for name, value in batch.arrays.items()
    }
    return ClipBatch(batch.clip_ids[part], arrays, batch.views[part])


def _not_finite(losses: Float[Tensor, " b"], clip_ids: list[str]) -> list[str]:
    """Clips whose loss is NaN or infinite."""
    finite = losses.isfinite().tolist()
    return [clip for clip, fine in zip(clip_ids, finite, strict=True) if not fine]
