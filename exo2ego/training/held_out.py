"""The held-out loss: of clips that are not trained on, at fixed noise levels, always the same.

RUN/held_out.jsonl      one line a measurement: step, loss, that of each noise level, clips
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exo2ego.training.step_lines import StepLine, append_line, read_lines, truncate_lines

HELD_OUT = "held_out.jsonl"
SPLIT = "val"
"""The dataset's own split for it."""


class HeldOutSettings(BaseModel):
    """When the held-out loss is measured, and over what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(
        default=1000,
        ge=0,
        description="steps from one measurement to the next; 0 is never. Choice",
    )
    clips: int = Field(
        default=32, ge=1, description="clips of the val split, evenly over its ids. Choice"
    )


class NoisyHeldOutSettings(HeldOutSettings):
    """The same for what is trained at noise levels."""

    sigmas: tuple[float, ...] = Field(
        default=(0.1, 0.3, 0.5, 0.7, 0.9),
        min_length=1,
        description="noise levels, each with a fixed noise a clip; loss is their mean. Choice",
    )


@dataclass(frozen=True)
class HeldOutLoss(StepLine):
    """One measurement."""

    loss: float | None
    """Mean over clips and noise levels; None if it is not a finite number."""
    by_sigma: dict[str, float | None]
    """Mean over clips at each noise level; empty for EgoExo-Align, which has none."""
    clips: int
    seconds: float


def read_held_out(run: Path) -> list[HeldOutLoss]:
    """The measurements of a run, oldest first."""
    return read_lines(run / HELD_OUT, HeldOutLoss)


def append_held_out(run: Path, line: HeldOutLoss) -> None:
    """Adds the line of one measurement."""
    append_line(run / HELD_OUT, line)


def truncate_held_out(run: Path, step: int) -> None:
    """Drops measurements of steps that will be done again."""
    truncate_lines(run / HELD_OUT, HeldOutLoss, step)


def evenly(clip_ids: Sequence[str], most: int) -> list[str]:
    """At most so many of the ids, evenly over all of them."""
    count = min(most, len(clip_ids))
    return [clip_ids[place * len(clip_ids) // count] for place in range(count)]


def held_out_loss(
    step: int, losses: dict[float | None, Float[Tensor, " n"]], began: float
) -> HeldOutLoss:
    """The line of these losses: of each clip, by noise level."""
    every = torch.cat(list(losses.values()))
    by_sigma = {str(sigma): _finite(of.mean()) for sigma, of in losses.items() if sigma is not None}
    clips = len(next(iter(losses.values())))
    return HeldOutLoss(step, _finite(every.mean()), by_sigma, clips, time.perf_counter() - began)


def _finite(value: Float[Tensor, ""]) -> float | None:
    """The number; JSON has no NaN."""
    return value.item() if math.isfinite(value.item()) else None
