"""The loop of the miniature trainings: one model, one loss; stopped at any time, it goes on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.mini.optimiser import MuonAndAdam
from exo2ego.training.build import put_weights
from exo2ego.training.ema import Ema
from stores.atomic import whole_file
from stores.progress import Track

TOLD_EVERY, KEPT_EVERY = 50, 250
"""Steps from one line on stdout, or one checkpoint, to the next."""


def quick_arithmetic() -> torch.autocast:
    """The context of a loss: bf16 on cores that are quicker at it, else fp32.

    Those with AVX2 alone take five times fp32's time for it (docs/mini.md).
    """
    has_avx512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.autocast("cpu", torch.bfloat16, enabled=has_avx512)


@dataclass(frozen=True)
class Schedule:
    """How long, and how fast."""

    steps: int
    lr: float
    last_lr: float = 1e-5
    warmup: int = 50
    weight_decay: float = 0.0
    averaged: float = 0.0
    """Share of the averaged weights that stays at each step; 0: none are kept."""

    def rate(self, step: int) -> float:
        """Linear warm-up to `lr`, then half a cosine down to `last_lr` at the end."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.last_lr + (self.lr - self.last_lr) * 0.5 * (1 + math.cos(math.pi * done))


def train(
    model: nn.Module,
    loss_of: Callable[[int], Tensor],
    schedule: Schedule,
    checkpoint: Path,
    track: Track,
) -> None:
    """Trains the model in place; what it ends with are the averaged weights, if there are any.

    `loss_of` a step must depend on the step and the weights alone: so a run that was stopped ends
    with the weights of one that was not.
    """
    optimiser = MuonAndAdam(model, schedule.lr, decay=schedule.weight_decay)
    ema = Ema(dict(model.named_parameters()), schedule.averaged)
    first, losses = _resume(checkpoint, model, optimiser, ema), list[float]()
    steps, what = range(first, schedule.steps), checkpoint.name.split(".")[0]
    for step in track(steps, total=len(steps), what=what, unit="steps"):
        loss = loss_of(step)
        loss.backward()
        optimiser.step(schedule.rate(step))
        ema.update(step)
        losses.append(float(loss.detach()))
        if len(losses) == TOLD_EVERY:
            print(f"{what} step {step + 1}: mean loss {sum(losses) / TOLD_EVERY:.4f}", flush=True)
            losses.clear()
        if (step + 1) % KEPT_EVERY == 0 or step + 1 == schedule.steps:
            kept = {"model": model.state_dict(), "averages": ema.average, "step": step + 1}
            with whole_file(checkpoint) as file:
                torch.save(kept | {"optimiser": optimiser.state_dict()}, file)
    put_weights(model, ema.average, checkpoint)


def _resume(path: Path, model: nn.Module, optimiser: MuonAndAdam, ema: Ema) -> int:
    """The step to go on with."""
    if not path.exists():
        return 0
    kept = torch.load(path, weights_only=True)
    model.load_state_dict(kept["model"])
    optimiser.load_state_dict(kept["optimiser"])
    ema.restore(kept["averages"])
    return kept["step"]
