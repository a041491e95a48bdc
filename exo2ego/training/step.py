"""One optimiser step of a run: its batch in parts, the loss of each clip, and what is noted."""

import time

from jaxtyping import Float
from torch import Tensor, nn

from exo2ego.training.checkpoint import checkpoints
from exo2ego.training.losses import StepMetrics
from exo2ego.training.optimiser import learning_rate
from exo2ego.training.run import Run
from exo2ego.training.stages import arithmetic, clip_generator
from stores.errors import UserFault
from stores.stream import ClipBatch


class TrainingFault(UserFault, ArithmeticError):
    """A run that cannot start as asked, or a loss or gradient that is not a number."""


def take_step(run: Run, step: int, batch: ClipBatch) -> StepMetrics:
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


def _micro_losses(run: Run, step: int, batch: ClipBatch) -> Float[Tensor, " b"]:
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


def _not_finite(run: Run, clip_ids: list[str], what: str) -> TrainingFault:
    newest = checkpoints(run.out)
    return TrainingFault(
        f"The {what} is not a number.",
        where=f"{run.out}, clips {', '.join(clip_ids)}",
        expected="a finite number",
        got="NaN or infinity",
        fix="Look at these clips; lower optimiser.lr, or use precision=fp32. "
        f"The newest checkpoint is {newest[-1].name if newest else 'none'}.",
    )
