"""Exo keys and values that are computed once: the same velocities, and nothing is left behind."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.testing import assert_close

from exo2ego.model.exo_cache import known_exo
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.generator import Generator, GeneratorSettings, build_generator
from exo2ego.model.given import Given
from exo2ego.model.multiexocon import MultiExoConSettings
from exo2ego.model.sampling import sample
from exo2ego.model.wan import LoraSettings, load_wan

TIMESTEP = torch.tensor([300.0, 800.0])


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(null: str = "zero", dtype: torch.dtype = torch.float32) -> Generator:
    """A multiexocon generator that is not at its start."""
    settings = GeneratorSettings(
        lora=LoraSettings(rank=3, alpha=3),
        exo=MultiExoConSettings.model_validate({"null": null}),
    )
    generator = torch.Generator().manual_seed(0)
    built = build_generator(load_wan("tiny", dtype=dtype), settings, "multiexocon", generator)
    for number, parameter in enumerate(built.parameters()):
        parameter.data += 0.1 * draw(number, *parameter.shape).to(parameter.dtype)
    return built.eval().requires_grad_(False)


def clips() -> Given:
    return Given(draw(1, 2, 16, 3, 2, 4), draw(2, 2, 4, 16, 3, 2, 4))


@pytest.mark.parametrize("null", ["zero", "learned"])
@pytest.mark.parametrize("guided", [False, True])
def test_velocities_are_those_of_two_plain_calls(null: str, guided: bool) -> None:
    generator, given, latents = build(null), clips(), draw(3, 2, 16, 3, 2, 4)
    known, places = generator.known_channels(given), given.places
    tokens = generator.exo_tokens(given.exo_latents, places)
    dropped = generator.exo_tokens(given.exo_latents, places, torch.zeros(2, dtype=torch.bool))
    told = generator.velocity(latents, TIMESTEP, known, tokens)
    null_told = generator.velocity(latents, TIMESTEP, known, dropped)
    assert not torch.allclose(told, null_told, atol=1e-3)
    with generator.solving(given, guided=guided) as velocity:
        ours, ours_null = velocity(latents, TIMESTEP)
    assert_close(ours, told, rtol=0, atol=1e-5)
    if guided:
        assert_close(ours_null, null_told, rtol=0, atol=1e-5)
    else:
        assert ours_null is None


def test_a_bfloat16_wan_keeps_its_type_and_its_numbers() -> None:
    generator, given, latents = build(dtype=torch.bfloat16), clips(), draw(3, 2, 16, 3, 2, 4)
    tokens = generator.exo_tokens(given.exo_latents, given.places)
    told = generator.velocity(latents, TIMESTEP, generator.known_channels(given), tokens)
    with generator.solving(given, guided=True) as velocity:
        ours, _ = velocity(latents, TIMESTEP)
    assert_close(ours, told, rtol=0, atol=0.05)


@contextmanager
def counted(generator: Generator) -> Iterator[Counter[str]]:
    """How often each projection of the cross-attentions ran."""
    calls: Counter[str] = Counter()
    handles = [
        block.get_submodule(f"attn2.{name}").register_forward_hook(
            lambda *_, name=name: calls.update([name])
        )
        for block in generator.wan.blocks
        for name in ("to_q", "to_k", "to_v")
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(("guidance", "values"), [(3.5, 2), (1.0, 1)])
def test_keys_and_values_are_projected_once_a_block_whatever_the_steps(
    guidance: float, values: int
) -> None:
    generator, blocks, steps = build(), 2, 7
    with counted(generator) as calls:
        settings = SamplerSettings(steps=steps, guidance=guidance)
        sample(generator, clips(), draw(3, 2, 16, 3, 2, 4), settings)
    assert calls == {"to_q": steps * blocks, "to_k": blocks, "to_v": values * blocks}


def test_wans_own_processors_come_back_after_a_fault_too() -> None:
    generator = build()
    before = [block.attn2.processor for block in generator.wan.blocks]
    with (
        pytest.raises(RuntimeError, match="stopped"),
        known_exo(generator.wan, draw(4, 2, 5, 48), None),
    ):
        assert all(
            block.attn2.processor is not old
            for block, old in zip(generator.wan.blocks, before, strict=True)
        )
        raise RuntimeError("stopped")
    assert [block.attn2.processor for block in generator.wan.blocks] == before
