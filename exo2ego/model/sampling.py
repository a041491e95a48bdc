"""Sampling: from noise to the latents of an ego video, with any generator of velocities."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from exo2ego.model.flow import SamplerSettings, make_scheduler
from exo2ego.model.given import Given, check_numbers

Velocity = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""(latents "b c t h w", timestep "b") -> velocity, and that without the exo videos if asked for."""


@runtime_checkable
class VideoGenerator(Protocol):
    """A model that tells the velocity of a noisy ego video: what trainer and sampler ask for."""

    pose_reads: str | None
    """Name of the array that `Given.pose` holds; None if the model takes no pose."""

    def __call__(
        self, noisy: Float[Tensor, "b c t h w"], sigma: Float[Tensor, " b"], given: Given
    ) -> Float[Tensor, "b c t h w"]:
        """Velocity (noise - latents) in float32, for training."""
        ...

    def groups(self, given: Given) -> list[tuple[list[int], Given]]:
        """Clips that can be solved together: their numbers in the batch, and what is given."""
        ...

    def solving(self, given: Given, *, guided: bool) -> AbstractContextManager[Velocity]:
        """Velocities of one group's steps; what no step changes is computed once, on entering."""
        ...


def with_null_in_batch(velocity: Callable[[Tensor, Tensor], Tensor], *, guided: bool) -> Velocity:
    """Velocities of the clips and, if guided, of the same clips without exo videos: in one batch.

    `velocity` is then asked for twice the clips, those without exo videos behind the others.
    """
    times = 2 if guided else 1

    def both(latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor | None]:
        noisy = repeat(latents, "b ... -> (times b) ...", times=times)
        told, *null = velocity(noisy, timestep.repeat(times)).split(len(latents))
        return told, null[0] if null else None

    return both


@torch.no_grad()
def sample(
    generator: VideoGenerator,
    given: Given,
    noise: Float[Tensor, "b c t h w"],
    settings: SamplerSettings,
) -> Float[Tensor, "b c t h w"]:
    """Latents of the ego videos that `noise` becomes, float32.

    Noise is the caller's, one per clip, so that a clip's video does not depend on its batch.
    Guidance is v_null + guidance (v - v_null); 1 is without, and half the work. Raises ShapeFault
    for what does not fit the generator or is not finite.
    """
    check_numbers(given)
    latents = noise.float()
    made = torch.empty_like(latents)
    for clips, part in generator.groups(given):
        made[clips] = _solve(generator, part, latents[clips], settings)
    return made


def _solve(
    generator: VideoGenerator, given: Given, latents: Tensor, settings: SamplerSettings
) -> Tensor:
    scheduler = make_scheduler(settings.steps, settings.shift, latents.device)
    with generator.solving(given, guided=settings.guidance != 1) as velocity:
        for timestep in scheduler.timesteps:
            told, null = velocity(latents, timestep.float().expand(len(latents)))
            if null is not None:
                told = null + settings.guidance * (told - null)
            (latents,) = scheduler.step(told, timestep, latents, return_dict=False)
    return latents
