"""The generator: invisible at the start, what trains, saving and loading, sampling."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from exo2ego.model.condition import with_mask
from exo2ego.model.flow import SamplerSettings, make_scheduler
from exo2ego.model.generator import (
    Generator,
    GeneratorSettings,
    GeneratorStage,
    build_generator,
    trainable_parameters,
)
from exo2ego.model.given import Given
from exo2ego.model.poseinj.concat import ConcatSettings
from exo2ego.model.sampling import sample
from exo2ego.model.wan import LoraSettings, load_wan
from exo2ego.training.build import put_weights
from stores.errors import ShapeFault

STAGES = ("multiexocon", "poseinj")
SETTINGS = GeneratorSettings(
    lora=LoraSettings(rank=3, alpha=3), pose=ConcatSettings(latent_width=7, token_width=5)
)
SIGMA = torch.tensor([0.3, 0.8])


def rng(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def build(stage: GeneratorStage, dtype: torch.dtype = torch.float32) -> Generator:
    """The small generator of a stage."""
    return build_generator(load_wan("tiny", dtype=dtype), SETTINGS, stage, rng())


def clips(stage: GeneratorStage, only: slice = slice(None)) -> Given:
    """What a model knows of two clips."""
    g = rng(1)
    condition = torch.randn(2, 16, 3, 2, 4, generator=g)[only]
    exo_latents = torch.randn(2, 4, 16, 3, 2, 4, generator=g)[only]
    rays = torch.randn(2, 9, 6, 16, 32, generator=g)[only]
    return Given(condition, exo_latents, rays if stage == "poseinj" else None)


def noise(only: slice = slice(None)) -> torch.Tensor:
    """Noise of two clips."""
    return torch.randn(2, 16, 3, 2, 4, generator=rng(2))[only]


def disturb(generator: Generator, stage: GeneratorStage) -> None:
    """Moves everything that a stage trains, as training would."""
    g = rng(3)
    for parameter in trainable_parameters(generator, stage).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)


def weights(generator: Generator, stage: GeneratorStage) -> dict[str, torch.Tensor]:
    """What a stage trained, as a checkpoint holds it."""
    return {name: p.detach() for name, p in trainable_parameters(generator, stage).items()}


@pytest.mark.parametrize("stage", STAGES)
def test_at_the_start_the_output_is_bare_wans_bit_for_bit(stage):
    known, bare, generator = clips(stage), load_wan("tiny"), build(stage)
    tokens = generator.exo_tokens(known.exo_latents, known.places)
    latents = torch.cat([noise(), with_mask(known.condition)], dim=1)
    expected = bare(latents, 1000 * SIGMA, tokens, return_dict=False)[0]
    assert torch.equal(generator(noise(), SIGMA, known), expected)


def test_stage_two_starts_where_stage_one_ended():
    first, second = build("multiexocon"), build("poseinj")
    disturb(first, "multiexocon")
    put_weights(second, weights(first, "multiexocon"), Path("first"))
    known = clips("poseinj")
    ended = first(noise(), SIGMA, replace(known, pose=None))
    assert torch.equal(second(noise(), SIGMA, known), ended)


@pytest.mark.parametrize(
    ("stage", "kinds"),
    [
        ("multiexocon", {"lora": 16, "attn2": 20, "exo_tokens": 2}),
        ("poseinj", {"lora": 16, "patch_embedding": 8}),
    ],
)
def test_a_stage_trains_its_own_parameters_alone(stage, kinds):
    names = {name for name, p in build(stage).named_parameters() if p.requires_grad}
    assert {kind: sum(kind in name for name in names) for kind in kinds} == kinds
    assert len(names) == sum(kinds.values())
    assert "wan.patch_embedding.latents.weight" not in names


@pytest.mark.parametrize("stage", STAGES)
def test_every_trained_parameter_learns_after_the_first_step(stage):
    generator = build(stage)
    trained = trainable_parameters(generator, stage)
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        generator(noise(), SIGMA, clips(stage)).square().mean().backward()
        optimizer.step()
    # A constant on all keys of a row leaves its softmax as it was.
    dead = {name for name, p in trained.items() if p.grad is None or p.grad.abs().max() < 1e-9}
    assert not {name for name in dead if not name.endswith("attn2.to_k.bias")}


def test_checkpointing_leaves_the_gradients_as_they_are():
    plain, checkpointed = build("poseinj"), build("poseinj")
    checkpointed.wan.enable_gradient_checkpointing()
    for generator in (plain, checkpointed):
        disturb(generator, "poseinj")
        generator(noise(), SIGMA, clips("poseinj")).square().mean().backward()
    gradients = trainable_parameters(checkpointed, "poseinj")
    for name, parameter in trainable_parameters(plain, "poseinj").items():
        assert_close(gradients[name].grad, parameter.grad)


def test_a_bfloat16_wan_keeps_what_we_add_in_float32():
    generator = build("poseinj", torch.bfloat16)
    assert all(
        p.dtype == torch.float32 for p in trainable_parameters(generator, "poseinj").values()
    )
    velocity = generator(noise(), SIGMA, clips("poseinj"))
    assert velocity.dtype == torch.float32 and velocity.isfinite().all()
    assert_close(velocity, build("poseinj")(noise(), SIGMA, clips("poseinj")), rtol=0, atol=0.05)


@pytest.mark.parametrize("stage", STAGES)
def test_rays_are_given_if_and_only_if_there_is_a_poseinj(stage):
    other = clips("poseinj" if stage == "multiexocon" else "multiexocon")
    with pytest.raises(ShapeFault, match="pose"):
        build(stage)(noise(), SIGMA, other)


def test_a_saved_chain_of_stages_loads_into_a_fresh_generator():
    trained, fresh = build("poseinj"), build("poseinj")
    for stage in STAGES:
        disturb(trained, stage)
    for stage in STAGES:
        put_weights(fresh, weights(trained, stage), Path("trained"))
    known = clips("poseinj")
    assert torch.equal(fresh(noise(), SIGMA, known), trained(noise(), SIGMA, known))


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_sampling_is_the_solver_on_the_guided_velocity(guidance):
    generator, known = build("poseinj"), clips("poseinj")
    for stage in STAGES:
        disturb(generator, stage)
    scheduler, x = make_scheduler(4, 5.0), noise()
    for timestep in scheduler.timesteps:
        sigma = (timestep / 1000).expand(2)
        with torch.no_grad():
            told = generator(x, sigma, known)
            none = generator(x, sigma, replace(known, keep_exo=torch.tensor([False, False])))
        velocity = none + guidance * (told - none)
        x = scheduler.step(velocity, timestep, x).prev_sample
    ours = sample(generator, known, noise(), SamplerSettings(steps=4, guidance=guidance))
    assert_close(ours, x, rtol=0, atol=1e-4)


def test_a_clip_is_sampled_alike_alone_and_in_a_batch():
    generator, settings = build("poseinj"), SamplerSettings(steps=5)
    for stage in STAGES:
        disturb(generator, stage)
    both = sample(generator, clips("poseinj"), noise(), settings)
    for clip in (slice(0, 1), slice(1, 2)):
        alone = sample(generator, clips("poseinj", clip), noise(clip), settings)
        assert_close(alone, both[clip], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, as it compiles
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_compiled_blocks_give_the_same_velocities():
    plain, compiled = build("poseinj"), build("poseinj")
    for generator in (plain, compiled):
        for stage in STAGES:
            disturb(generator, stage)
        generator.requires_grad_(False)
    compiled.wan.compile_repeated_blocks(fullgraph=True)
    known = clips("poseinj")
    assert_close(compiled(noise(), SIGMA, known), plain(noise(), SIGMA, known), rtol=0, atol=1e-5)
