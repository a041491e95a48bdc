"""The model in less memory: float8's distance from bf16, and runs under a cap of GPU memory."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from benchmarks.rows import Row
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.generator import Generator
from exo2ego.model.given import Given
from exo2ego.model.sampling import sample
from exo2ego.model.wan_memory import MemorySettings, spare_memory
from exo2ego.training.build import train_in_fp32, trained_parameters

SAMPLING_GB, TRAINING_GB = 24.0, 48.0
Build = Callable[[str], Generator]
"""Makes the generator of a stage, with random weights, on the host."""


def float8_row(build: Build, given: Given, noise: torch.Tensor, what: str) -> Row:
    """How far float8 blocks are from bf16 ones, in what is sampled."""
    settings, made = SamplerSettings(steps=4), {}
    for base in ("full", "fp8"):
        generator = build("multiexocon")
        spare_memory(generator.wan, MemorySettings.model_validate({"base": base}), "cpu")
        made[base] = sample(generator, given, noise, settings)
    off = float((made["fp8"] - made["full"]).norm() / made["full"].norm())
    return Row(f"{what}: float8 blocks off bf16", 100 * off, "% of sampled latents, relative L2")


def capped_rows(build: Build, given: Given, rays: torch.Tensor) -> list[Row]:
    """Peaks of sampling in float8 and of a PoseInj step, each under its cap."""
    sampling, training = "14B, a clip sampled with float8 blocks", "14B, a PoseInj step of one clip"
    if not torch.cuda.is_available():
        return [Row(f"{what}, peak", None, "", note="needs a GPU") for what in (sampling, training)]
    return [
        _capped(sampling, SAMPLING_GB, _sampling, build, given),
        _capped(training, TRAINING_GB, _training, build, given, rays),
    ]


def _capped(what: str, most_gb: float, work: Callable[..., None], *given: object) -> Row:
    with _cap(most_gb):
        try:
            work(*given)
        except torch.cuda.OutOfMemoryError:
            return Row(f"{what}, peak", None, "", note=f"out of memory at {most_gb:g} GB")
        peak = torch.cuda.max_memory_allocated() / 1e9
    return Row(f"{what}, peak", peak, "GB", None, most_gb)


@contextmanager
def _cap(most_gb: float) -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, most_gb * 1e9 / whole))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _sampling(build: Build, given: Given) -> None:
    generator = build("multiexocon")
    spare_memory(generator.wan, MemorySettings(base="fp8"), "cuda")
    nn.Module.to(generator, "cuda")
    on_gpu = Given(given.condition.cuda(), given.exo_latents.cuda())
    sample(generator, on_gpu, torch.randn_like(on_gpu.condition), SamplerSettings())


def _training(build: Build, given: Given, rays: torch.Tensor) -> None:
    generator = build("poseinj")
    nn.Module.to(generator, "cuda")
    train_in_fp32(generator)
    optimiser = torch.optim.AdamW(trained_parameters(generator).values())
    on_gpu = Given(given.condition.cuda(), given.exo_latents.cuda(), rays.cuda())
    sigma = torch.full((1,), 0.5, device="cuda")
    for _ in range(2):  # the second has the optimiser's moments beside it
        with torch.autocast("cuda", torch.bfloat16):
            velocity = generator(torch.randn_like(on_gpu.condition), sigma, on_gpu)
        velocity.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
