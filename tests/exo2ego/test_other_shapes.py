"""Nothing is fixed to 9 frames of 256x256: clips of other shapes pass all of the generator."""

import pytest
import torch

from exo2ego.model.flow import SamplerSettings
from exo2ego.model.generator import Generator, GeneratorSettings, build_generator
from exo2ego.model.given import Given
from exo2ego.model.poseinj.concat import ConcatSettings
from exo2ego.model.sampling import sample
from exo2ego.model.wan import LoraSettings, load_wan
from stores.schema import ClipShape

SHAPES = [(5, (64, 96)), (17, (128, 128)), (9, (48, 112))]


@pytest.fixture(scope="module")
def generator() -> Generator:
    settings = GeneratorSettings(
        lora=LoraSettings(rank=3, alpha=3), pose=ConcatSettings(latent_width=7, token_width=5)
    )
    g = torch.Generator().manual_seed(0)
    built = build_generator(load_wan("tiny"), settings, "poseinj", g)
    for parameter in built.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    return built.requires_grad_(False)


@pytest.mark.parametrize(("frames", "hw"), SHAPES)
def test_a_clip_of_another_shape_is_sampled(
    generator: Generator, frames: int, hw: tuple[int, int]
) -> None:
    sizes, g = ClipShape(views=2, frames=frames, hw=hw).sizes(), torch.Generator().manual_seed(1)
    latent = [sizes[axis] for axis in "cthw"]
    rays = torch.randn([1, *(sizes[axis] for axis in "T6HW")], generator=g)
    given = Given(
        torch.randn(1, *latent, generator=g), torch.randn(1, 2, *latent, generator=g), rays
    )
    noise = torch.randn(1, *latent, generator=g)
    made = sample(generator, given, noise, SamplerSettings(steps=3))
    assert made.shape == noise.shape and made.isfinite().all()
    changed = given.pose.clone()
    changed[:, -1, :, -1, -1] += 1  # the last pixel of the last frame counts
    other = Given(given.condition, given.exo_latents, changed)
    assert not torch.equal(made, sample(generator, other, noise, SamplerSettings(steps=3)))
