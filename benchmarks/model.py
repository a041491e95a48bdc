"""The model: what a step and a clip take, and what keeping exo keys and values gains.

On a GPU with the 14B and random weights; without one a small Wan of the same class on the CPU: its
times say nothing of the 14B, its ratios are measured by the same code.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from benchmarks.model_memory import capped_rows, float8_row
from benchmarks.rows import Row, interleaved
from exo2ego.model.flow import SamplerSettings, make_scheduler
from exo2ego.model.generator import (
    Generator,
    GeneratorSettings,
    GeneratorStage,
    build_generator,
)
from exo2ego.model.given import Given
from exo2ego.model.sampling import sample
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.wan import LoraSettings, detach_text, put_in_dtype
from exo2ego.model.wan_expert import IN_CHANNELS
from exo2ego.training.describe import describe
from exo2ego.training.experiment_file import load_experiment
from stores.schema import LATENT_CHANNELS, ClipShape

ROUNDS = 5
GAIN_BAR = 1.4
"""Of sampling with guidance, over making exo keys and values anew at every step."""


@dataclass(frozen=True)
class Setting:
    """What is measured, and on what."""

    device: str
    dtype: torch.dtype
    heads: int
    layers: int
    ffn: int
    steps: int
    clip: ClipShape


GPU = Setting("cuda", torch.bfloat16, 40, 40, 13824, 40, ClipShape(4, 9, (256, 256)))
CPU = Setting("cpu", torch.float32, 4, 4, 1382, 6, ClipShape(4, 9, (256, 256)))


def run() -> list[Row]:
    """All rows; about two minutes on a CPU."""
    setting = GPU if torch.cuda.is_available() else CPU
    torch.set_num_threads(1)
    given, noise, rays = _clip(setting)
    generator = nn.Module.to(generator_of(setting, "multiexocon"), setting.device)
    rows = _sampling_rows(setting, generator, given, noise)
    if setting is CPU:
        what = ("forward", "forward and backward", "share of the matrix ceiling", "memory peak")
        rows += [Row(f"14B, {name}", None, "", note="needs a GPU") for name in what]
    else:
        rows += _gpu_rows(setting, generator, given, noise)
    del generator
    small = replace(CPU, dtype=torch.bfloat16)
    small_given, small_noise, _ = _clip(small)
    rows.append(
        float8_row(partial(generator_of, small), small_given, small_noise, setting_name(small))
    )
    return rows + capped_rows(partial(generator_of, setting), given, rays)


def setting_name(setting: Setting) -> str:
    """What rows call it."""
    return f"{setting.layers} blocks of {128 * setting.heads}, CPU" if setting is not GPU else "14B"


def generator_of(setting: Setting, stage: GeneratorStage) -> Generator:
    """A stage's generator with random weights, on the host."""
    g = torch.Generator().manual_seed(0)
    with initial_weights_from(g):
        wan = WanTransformer3DModel(
            num_attention_heads=setting.heads,
            attention_head_dim=128,
            in_channels=IN_CHANNELS,
            out_channels=LATENT_CHANNELS,
            ffn_dim=setting.ffn,
            num_layers=setting.layers,
        )
    put_in_dtype(wan, setting.dtype)
    detach_text(wan)
    rank = LoraSettings().rank if setting is GPU else 8
    settings = GeneratorSettings(lora=LoraSettings(rank=rank, alpha=rank))
    return build_generator(wan, settings, stage, g)


def _clip(setting: Setting) -> tuple[Given, torch.Tensor, torch.Tensor]:
    """What is given of a clip, noise, and rays."""
    sizes, g = setting.clip.sizes(), torch.Generator().manual_seed(1)
    shape = [1, *(sizes[axis] for axis in "cthw")]
    condition, noise = (torch.randn(shape, generator=g).to(setting.device) for _ in range(2))
    exo = torch.randn([1, sizes["v"], *shape[1:]], generator=g).to(setting.device)
    rays = torch.randn([1, *(sizes[axis] for axis in "T6HW")], generator=g)
    return Given(condition, exo), noise, rays


def _sampling_rows(
    setting: Setting, generator: Generator, given: Given, noise: torch.Tensor
) -> list[Row]:
    settings = SamplerSettings(steps=setting.steps)
    works: dict[str, Callable[[], object]] = {
        "ours": partial(sample, generator, given, noise, settings),
        "anew": partial(_sample_anew, generator, given, noise, settings),
    }
    spent = interleaved({name: partial(_waited, work) for name, work in works.items()}, ROUNDS)
    seconds = {name: [each.seconds for each in many] for name, many in spent.items()}
    gains = [a / b for a, b in zip(seconds["anew"], seconds["ours"], strict=True)]
    what = setting_name(setting)
    note = f"{settings.steps} steps, guidance {settings.guidance:g}"
    gain_note = f"from {min(gains):.2f} to {max(gains):.2f}"
    return [
        Row(f"{what}: a clip sampled", median(seconds["ours"]), "s", note=note),
        Row(f"{what}: exo keys and values kept", median(gains), "x", GAIN_BAR, None, gain_note),
    ]


@torch.no_grad()
def _sample_anew(
    generator: Generator, given: Given, noise: torch.Tensor, settings: SamplerSettings
) -> torch.Tensor:
    """As `sample`, with keys and values of all exo tokens, zero ones too, at each step."""
    scheduler, latents = make_scheduler(settings.steps, settings.shift, noise.device), noise
    known = generator.known_channels(given)
    tokens = generator.exo_tokens(given.exo_latents, given.places)
    null = torch.zeros_like(tokens)
    for timestep in scheduler.timesteps:
        clock = timestep.float().expand(len(latents))
        told = generator.velocity(latents, clock, known, tokens)
        without = generator.velocity(latents, clock, known, null)
        velocity = without + settings.guidance * (told - without)
        (latents,) = scheduler.step(velocity, timestep, latents, return_dict=False)
    return latents


def _waited(work: Callable[[], object]) -> None:
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _gpu_rows(
    setting: Setting, generator: Generator, given: Given, noise: torch.Tensor
) -> list[Row]:
    """Forward and backward of one clip, against a large matrix product of the same run."""
    sigma = torch.full((1,), 0.5, device=setting.device)
    ceiling = matrix_tflops(setting)

    def forward() -> None:
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            generator(noise, sigma, given)

    def both() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            generator(noise, sigma, given).square().mean().backward()
        generator.zero_grad(set_to_none=True)

    works = {"forward": forward, "forward and backward": both}
    spent = interleaved({name: partial(_waited, work) for name, work in works.items()}, ROUNDS)
    seconds = {name: median(each.seconds for each in many) for name, many in spent.items()}
    overrides = ["batch.global_batch=1", "batch.micro_batch=1"]
    about = describe(load_experiment("multiexocon", overrides), clip=setting.clip)
    share = about.tflop_a_step / seconds["forward and backward"] / ceiling
    torch.cuda.reset_peak_memory_stats()
    _waited(both)
    held = torch.cuda.memory_allocated()
    activations = (torch.cuda.max_memory_allocated() - held) / 1e9
    note = f"{ceiling:.0f} TFLOP/s measured"
    return [
        *(Row(f"14B, {name}", taken, "s a clip") for name, taken in seconds.items()),
        Row("14B, share of the matrix ceiling", share, "", 0.65, None, note),
        Row("14B, peak above what is held, per described", activations / about.activations_gb, ""),
    ]


def matrix_tflops(setting: Setting, side: int = 8192, times: int = 20) -> float:
    """The rate of a large matrix product, in the setting's type."""
    a, b = (torch.randn(side, side, device=setting.device, dtype=setting.dtype) for _ in range(2))
    _waited(partial(torch.matmul, a, b))
    began = time.perf_counter()
    for _ in range(times - 1):
        a @ b
    _waited(partial(torch.matmul, a, b))
    return times * 2 * side**3 / (time.perf_counter() - began) / 1e12
