"""The optimiser of all stages, AdamW, and its learning rate at every step."""

import math

import torch
from torch import nn

from exo2ego.training.experiment import OptimiserSettings


def make_optimiser(
    parameters: dict[str, nn.Parameter], settings: OptimiserSettings
) -> torch.optim.Optimizer:
    """AdamW on all that trains."""
    return torch.optim.AdamW(
        parameters.values(),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


def learning_rate(settings: OptimiserSettings, step: int) -> float:
    """Of step 0, 1, ...: linear warm-up to `lr`, then half a cosine to `min_lr` at the end."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    passed = (step - settings.warmup_steps) / max(1, settings.steps - 1 - settings.warmup_steps)
    return settings.min_lr + (settings.lr - settings.min_lr) * (1 + math.cos(math.pi * passed)) / 2
