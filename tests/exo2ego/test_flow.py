"""Noise levels, the straight way between latents and noise, and the sampler's schedule."""

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from exo2ego.model.flow import (
    SigmaSettings,
    draw_sigmas,
    make_scheduler,
    noisy_latents,
    shift_sigma,
    timestep_of,
    velocity_target,
)

PUBLISHED_ENDS = [999, 994, 989, 984, 978, 972, 965, 959], [291, 211, 117]


def rng(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def test_forty_steps_of_shift_five_are_wans_own():
    scheduler = make_scheduler(40, 5.0)
    timesteps = scheduler.timesteps.tolist()
    assert (timesteps[:8], timesteps[-3:]) == PUBLISHED_ENDS
    assert sum(t >= 900 for t in timesteps) == 15
    assert_close(scheduler.sigmas[[0, -2, -1]], torch.tensor([0.999999, 0.117647, 0.0]))


def test_the_true_velocity_leads_from_noise_back_to_the_latents():
    latents, noise = torch.randn(2, 2, 5, 3, 4, 6, generator=rng())
    scheduler, x = make_scheduler(40, 5.0), noise
    for timestep in scheduler.timesteps:
        (x,) = scheduler.step(velocity_target(latents, noise), timestep, x, return_dict=False)
    assert_close(x, latents, rtol=0, atol=1e-5)


def test_velocity_is_the_change_of_noisy_latents_per_noise_level():
    latents, noise = torch.randn(2, 2, 5, 3, 4, 6, generator=rng(), dtype=torch.float64)
    one, other = torch.tensor([[0.2, 0.9], [0.7, 0.1]], dtype=torch.float64)
    moved = noisy_latents(latents, noise, other) - noisy_latents(latents, noise, one)
    step = (other - one).reshape(2, 1, 1, 1, 1)
    assert_close(moved, step * velocity_target(latents, noise))


def test_noise_level_zero_is_the_latents_and_one_is_the_noise():
    latents, noise = torch.randn(2, 2, 5, 3, 4, 6, generator=rng())
    ends = noisy_latents(latents, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(ends[0], latents[0])
    assert torch.equal(ends[1], noise[1])


def test_shift_five_puts_nine_tenths_at_the_published_quantile():
    assert_close(shift_sigma(torch.tensor([0.0, 0.642857, 1.0]), 5.0), torch.tensor([0, 0.9, 1]))
    assert_close(timestep_of(torch.tensor([0.9])), torch.tensor([900.0]))


def test_rejection_keeps_the_density_inside_the_range():
    settings = SigmaSettings(low=0.5, high=0.9)
    sigmas = draw_sigmas(20_000, settings, rng())
    assert settings.low <= sigmas.min() and sigmas.max() <= settings.high
    u = sigmas / (5 - 4 * sigmas)
    low, high = 0.5 / 3, 0.9 / 1.4
    quartiles = torch.quantile((u - low) / (high - low), torch.tensor([0.25, 0.5, 0.75]))
    assert_close(quartiles, torch.tensor([0.25, 0.5, 0.75]), rtol=0, atol=0.015)


def test_draws_depend_on_the_generator_alone():
    settings = SigmaSettings(high=0.9)
    first = draw_sigmas(9, settings, rng(1))
    torch.manual_seed(5)
    assert torch.equal(draw_sigmas(9, settings, rng(1)), first)


def test_an_empty_range_is_refused():
    with pytest.raises(ValidationError, match="low must be below high"):
        SigmaSettings(low=0.9, high=0.9)
