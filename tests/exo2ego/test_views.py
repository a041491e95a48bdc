"""Clips that lack views: a batch with absent views is what calls with fewer views give."""

import pytest
import torch

from exo2ego.model.align import STTransformerSettings, build_align
from exo2ego.model.align.prediction import AlignGiven
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.generator import (
    Generator,
    GeneratorSettings,
    build_generator,
    trainable_parameters,
)
from exo2ego.model.given import Given
from exo2ego.model.sampling import sample
from exo2ego.model.views import by_views, clips_by_views
from exo2ego.model.wan import LoraSettings, load_wan

ABSENT = {0: [3], 2: [1, 3]}
"""Views that the clips of a batch of three lack; clip 1 has all four."""
SIGMA = torch.tensor([0.3, 0.8, 0.5])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed))


def without(of_views: torch.Tensor) -> torch.Tensor:
    """The batch with its absent views marked."""
    marked = of_views.clone()
    for clip, views in ABSENT.items():
        marked[clip, views] = torch.nan
    return marked


def only(of_views: torch.Tensor, clip: int) -> torch.Tensor:
    """One clip with the views that it has."""
    views = [view for view in range(4) if view not in ABSENT.get(clip, [])]
    return of_views[clip : clip + 1, views]


@pytest.fixture(scope="module")
def align() -> torch.nn.Module:
    return build_align(STTransformerSettings(width=20, blocks=2, heads=2, head_width=6), rng())


@pytest.fixture(scope="module")
def generator() -> Generator:
    """A multiexocon generator that is not at its start."""
    settings = GeneratorSettings(lora=LoraSettings(rank=3, alpha=3))
    built = build_generator(load_wan("tiny"), settings, "multiexocon", rng())
    for parameter in trainable_parameters(built, "multiexocon").values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng(3))
    return built


@pytest.mark.parametrize("clip", [0, 1, 2])
def test_align_sees_of_each_clip_the_views_that_it_has(align: torch.nn.Module, clip: int) -> None:
    latents, rays = draw(1, 3, 4, 16, 4, 6), draw(2, 3, 4, 6, 4, 6)
    together = align(AlignGiven(without(latents), without(rays))).latent[clip]
    alone = align(AlignGiven(only(latents, clip), only(rays, clip))).latent[0]
    assert torch.equal(together, alone)


@pytest.mark.parametrize("clip", [0, 1, 2])
def test_the_generator_sees_of_each_clip_the_views_that_it_has(
    generator: Generator, clip: int
) -> None:
    exo, one = draw(1, 3, 4, 16, 3, 2, 4), slice(clip, clip + 1)
    noisy, condition = draw(2, 3, 16, 3, 2, 4), draw(3, 3, 16, 3, 2, 4)
    keep = torch.tensor([True, True, False])
    together = generator(noisy, SIGMA, Given(condition, without(exo), None, keep))[clip]
    given = Given(condition[one], only(exo, clip), None, keep[one])
    alone = generator(noisy[one], SIGMA[one], given)
    assert torch.equal(together, alone[0])


def test_sampling_a_clip_with_three_views_is_sampling_it_with_these_alone(
    generator: Generator,
) -> None:
    exo, noise = draw(1, 3, 4, 16, 3, 2, 4), draw(2, 3, 16, 3, 2, 4)
    condition, settings = draw(3, 3, 16, 3, 2, 4), SamplerSettings(steps=2)
    together = sample(generator, Given(condition, without(exo)), noise, settings)
    for clip in range(3):
        one = slice(clip, clip + 1)
        given = Given(condition[one], only(exo, clip))
        alone = sample(generator, given, noise[one], settings)
        assert torch.equal(together[clip], alone[0])


def test_absent_views_leave_every_gradient_finite(generator: Generator) -> None:
    exo = without(draw(1, 3, 4, 16, 3, 2, 4))
    given = Given(draw(3, 3, 16, 3, 2, 4), exo)
    generator(draw(2, 3, 16, 3, 2, 4), SIGMA, given).square().sum().backward()
    gradients = [one.grad for one in generator.parameters() if one.grad is not None]
    assert gradients and all(bool(one.isfinite().all()) for one in gradients)


def test_a_whole_batch_runs_once_and_is_not_copied() -> None:
    exo, calls = draw(1, 3, 4, 2), []

    def run(seen: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
        calls.append((seen, clips))
        return clips

    numbers = torch.arange(3.0)
    by_views(run, (exo,), (numbers,))
    assert [(seen is exo, clips is numbers) for seen, clips in calls] == [(True, True)]


def test_clips_with_the_same_views_run_together_and_come_back_in_order() -> None:
    exo, calls = draw(1, 4, 3, 2), []
    exo[[0, 2], 1] = torch.nan

    def run(seen: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(seen.shape))
        return clips * 10

    assert by_views(run, (exo,), (torch.arange(4.0),)).tolist() == [0, 10, 20, 30]
    assert calls == [(2, 2, 2), (2, 3, 2)]


def test_a_clip_without_any_view_is_refused() -> None:
    with pytest.raises(ValueError, match="clip 1 of the batch has no view"):
        clips_by_views(torch.tensor([[[1.0], [2.0]], [[torch.nan], [torch.nan]]]))
