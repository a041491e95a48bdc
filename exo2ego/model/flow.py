"""Flow matching as Wan was trained: noise levels, noisy latents, their velocity, the sampler."""

import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

NUM_TRAIN_TIMESTEPS = 1000
"""Timesteps are 1000 sigma (paper Table 8: total timesteps)."""


class SigmaSettings(BaseModel):
    """How noise levels are drawn in training. Choice: full range, uniform, shifted by 5.

    The paper gives neither; sampling (shift 5, 40 steps, low-noise expert alone) passes the
    whole range, so the expert is tuned on the whole range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shift: float = Field(
        default=5.0, gt=0, description="as in sampling (paper Table 8: sample shift)"
    )
    low: float = Field(
        default=0.0, ge=0, le=1, description="least noise drawn; not given in the paper"
    )
    high: float = Field(
        default=1.0, ge=0, le=1, description="most noise; 0.9 is Table 8's boundary 900"
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> "SigmaSettings":
        """Refuses an empty range, in which no level could ever be drawn."""
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got [{self.low}, {self.high}]")
        return self


class SamplerSettings(BaseModel):
    """How a video is sampled: UniPC on Wan's shifted schedule, with guidance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(
        default=40, gt=0, description="solver steps (paper Table 8: inference steps)"
    )
    shift: float = Field(default=5.0, gt=0, description="schedule shift (Table 8: sample shift)")
    guidance: float = Field(
        default=3.5, ge=1, description="guidance scale (Table 8: sample guide scale); 1 is none"
    )


def shift_sigma(u: Float[Tensor, "*n"], shift: float) -> Float[Tensor, "*n"]:
    """Noise level of a uniform position: shift u / (1 + (shift - 1) u), 0 to 0 and 1 to 1."""
    return shift * u / (1 + (shift - 1) * u)


def draw_sigmas(
    count: int, settings: SigmaSettings, generator: torch.Generator
) -> Float[Tensor, "b"]:
    """Noise levels in [low, high]: shifted uniform draws, those outside are drawn again.

    Rejection keeps the density inside the range as it was, where rescaling would bend it.
    """
    sigmas = _shifted(count, settings, generator)
    while (outside := (sigmas < settings.low) | (sigmas > settings.high)).any():
        sigmas[outside] = _shifted(int(outside.sum()), settings, generator)
    return sigmas


def _shifted(count: int, settings: SigmaSettings, generator: torch.Generator) -> Float[Tensor, "b"]:
    """Shifted uniform draws, on the generator's device."""
    u = torch.rand(count, generator=generator, device=generator.device)
    return shift_sigma(u, settings.shift)


def noisy_latents(
    latents: Float[Tensor, "b *chw"], noise: Float[Tensor, "b *chw"], sigma: Float[Tensor, "b"]
) -> Float[Tensor, "b *chw"]:
    """Latents on the straight way to noise: (1 - sigma) latents + sigma noise."""
    level = sigma.reshape(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise


def velocity_target(
    latents: Float[Tensor, "b *chw"], noise: Float[Tensor, "b *chw"]
) -> Float[Tensor, "b *chw"]:
    """What the model is to predict at every noise level: noise - latents."""
    return noise - latents


def timestep_of(sigma: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    """The model's clock, 0 to 1000, at a noise level."""
    return NUM_TRAIN_TIMESTEPS * sigma


def make_scheduler(
    steps: int, shift: float, device: str | torch.device = "cpu"
) -> UniPCMultistepScheduler:
    """UniPC set to `steps` timesteps, from noise to latents.

    The published scheduler's configuration says shift 3; the paper samples with 5 (Table 8), so
    it is never read from there.
    """
    scheduler = UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=shift,
    )
    scheduler.set_timesteps(steps, device=device)
    scheduler.set_begin_index(0)
    return scheduler
