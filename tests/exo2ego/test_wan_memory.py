"""Wan in less memory: float8 comes near, offloading changes nothing, adapters stay as they are."""

from typing import Literal

import pytest
import torch

from exo2ego.model.flow import SamplerSettings
from exo2ego.model.generator import Generator, GeneratorSettings, build_generator
from exo2ego.model.given import Given
from exo2ego.model.poseinj.concat import ConcatSettings
from exo2ego.model.sampling import sample
from exo2ego.model.wan import LoraSettings, load_wan
from exo2ego.model.wan_memory import (
    MemoryFault,
    MemorySettings,
    TrainingMemory,
    spare_memory,
    spare_training_memory,
)


def build(folder: str) -> Generator:
    """A multiexocon generator in bf16 whose LoRA is not at its start."""
    wan = load_wan(folder, dtype=torch.bfloat16)
    settings = GeneratorSettings(lora=LoraSettings(rank=3, alpha=3))
    g = torch.Generator().manual_seed(0)
    built = build_generator(wan, settings, "multiexocon", g)
    for name, parameter in built.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=g)
    return built.eval().requires_grad_(False)


def made(generator: Generator) -> torch.Tensor:
    """One clip, sampled."""
    g = torch.Generator().manual_seed(1)
    condition, noise = (torch.randn(1, 16, 3, 4, 6, generator=g) for _ in range(2))
    given = Given(condition, torch.randn(1, 2, 16, 3, 4, 6, generator=g))
    return sample(generator, given, noise, SamplerSettings(steps=4))


def with_settings(
    folder: str, base: Literal["full", "fp8"], offload: Literal["none", "group"]
) -> Generator:
    generator = build(folder)
    spare_memory(generator.wan, MemorySettings(base=base, offload=offload), "cpu")
    return generator


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_float8_halves_the_blocks_matrices_and_comes_near(wan_256: str) -> None:
    plain, small = build(wan_256), with_settings(wan_256, "fp8", "none")
    types = {name: parameter.dtype for name, parameter in small.wan.named_parameters()}
    assert types["blocks.1.ffn.net.2.weight"] == torch.float8_e4m3fn
    assert types["blocks.1.attn1.to_q.base_layer.weight"] == torch.float8_e4m3fn
    assert types["blocks.1.attn1.to_q.lora_A.default.weight"] == torch.bfloat16
    assert types["blocks.1.norm2.weight"] == torch.float32
    assert types["patch_embedding.weight"] == torch.bfloat16
    off = relative(made(small), made(plain))
    print(f"float8: {off:.4f} relative difference of sampled latents")
    assert 0 < off < 0.1


def test_offloading_changes_no_bit(wan_256: str) -> None:
    assert torch.equal(made(with_settings(wan_256, "full", "group")), made(build(wan_256)))


def test_both_together_are_float8_alone(wan_256: str) -> None:
    together = made(with_settings(wan_256, "fp8", "group"))
    assert torch.equal(together, made(with_settings(wan_256, "fp8", "none")))


def gradients(folder: str, memory: TrainingMemory, rounded: bool = False) -> torch.Tensor:
    """Of all that trains in stage poseinj, after one clip; frozen matrices rounded if so."""
    wan = load_wan(folder, dtype=torch.bfloat16)
    g = torch.Generator().manual_seed(0)
    settings = GeneratorSettings(
        lora=LoraSettings(rank=3, alpha=3), pose=ConcatSettings(latent_width=8, token_width=8)
    )
    generator = build_generator(wan, settings, "poseinj", g).train()
    for name, parameter in generator.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=g)
        elif rounded and ".blocks." in name and parameter.ndim == 2:
            parameter.data = parameter.data.to(torch.float8_e4m3fn).to(parameter.dtype)
    spare_training_memory(wan, memory)
    condition, noise = (torch.randn(1, 16, 3, 4, 6, generator=g) for _ in range(2))
    exo, rays = (
        torch.randn(1, 2, 16, 3, 4, 6, generator=g),
        torch.randn(1, 9, 6, 32, 48, generator=g),
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = generator(noise, torch.tensor([0.4]), Given(condition, exo, rays)).square().mean()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in generator.parameters() if p.grad is not None])


def test_checkpointing_leaves_gradients_as_they_are(wan_256: str) -> None:
    again = gradients(wan_256, TrainingMemory(checkpointing=True))
    assert torch.equal(again, gradients(wan_256, TrainingMemory()))


def test_lora_learns_on_a_float8_base_as_on_the_same_weights_rounded(wan_256: str) -> None:
    float8 = gradients(wan_256, TrainingMemory(checkpointing=True, base="fp8"))
    rounded = gradients(wan_256, TrainingMemory(), rounded=True)
    off = relative(float8, rounded)
    print(f"float8: gradients {off:.4f} off those of the rounded weights")
    assert off < 0.03


def test_float8_is_refused_where_more_than_lora_trains_and_without_checkpointing(
    wan_256: str,
) -> None:
    wan = load_wan(wan_256, dtype=torch.bfloat16)
    settings = GeneratorSettings(lora=LoraSettings(rank=3, alpha=3))
    generator = build_generator(wan, settings, "multiexocon", torch.Generator().manual_seed(0))
    with pytest.raises(MemoryFault, match="attn2"):
        spare_training_memory(generator.wan, TrainingMemory(checkpointing=True, base="fp8"))
    with pytest.raises(ValueError, match="checkpointing"):
        TrainingMemory(base="fp8")
