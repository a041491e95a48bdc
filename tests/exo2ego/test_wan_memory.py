"""Wan in less memory: float8 comes near, offloading changes nothing, adapters stay as they are."""

from typing import Literal

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from exo2ego.model.flow import SamplerSettings
from exo2ego.model.generator import Generator, GeneratorSettings, build_generator
from exo2ego.model.given import Given
from exo2ego.model.sampling import sample
from exo2ego.model.wan import IN_CHANNELS, LoraSettings, load_wan
from exo2ego.model.wan_memory import MemorySettings, spare_memory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Wan of width 256."""
    torch.manual_seed(0)
    wan = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=IN_CHANNELS,
        out_channels=16,
        text_dim=32,
        freq_dim=64,
        ffn_dim=692,
        num_layers=3,
    )
    path = tmp_path_factory.mktemp("wan")
    wan.save_pretrained(path)
    return str(path)


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


def test_float8_halves_the_blocks_matrices_and_comes_near(folder: str) -> None:
    plain, small = build(folder), with_settings(folder, "fp8", "none")
    types = {name: parameter.dtype for name, parameter in small.wan.named_parameters()}
    assert types["blocks.1.ffn.net.2.weight"] == torch.float8_e4m3fn
    assert types["blocks.1.attn1.to_q.base_layer.weight"] == torch.float8_e4m3fn
    assert types["blocks.1.attn1.to_q.lora_A.default.weight"] == torch.bfloat16
    assert types["blocks.1.norm2.weight"] == torch.float32
    assert types["patch_embedding.weight"] == torch.bfloat16
    off = relative(made(small), made(plain))
    print(f"float8: {off:.4f} relative difference of sampled latents")
    assert 0 < off < 0.1


def test_offloading_changes_no_bit(folder: str) -> None:
    assert torch.equal(made(with_settings(folder, "full", "group")), made(build(folder)))


def test_both_together_are_float8_alone(folder: str) -> None:
    together = made(with_settings(folder, "fp8", "group"))
    assert torch.equal(together, made(with_settings(folder, "fp8", "none")))
