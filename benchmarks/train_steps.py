"""Whole training steps at the paper's batch: steps/s, share of the matrix ceiling, peak memory.

On a GPU with the 14B and random weights; without one the same code on a small Wan on the CPU, whose
numbers say only that it works.
"""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import cast

import torch
from torch import nn

from benchmarks.model import CPU, GPU, Setting, generator_of, matrix_tflops, setting_name
from benchmarks.rows import Row
from exo2ego.model.generator import GeneratorStage
from exo2ego.training.build import Origin, train_in_fp32, trained_parameters
from exo2ego.training.describe import Machine, blank_batch, describe
from exo2ego.training.experiment import Experiment
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.optimiser import AdamW, learning_rate
from exo2ego.training.parallel import blocks_of
from exo2ego.training.stages import STAGES, arithmetic, clip_generator
from stores.stream import ClipBatch

WARM_UP, STEPS = 3, 10
SHARE_BAR, MEMORY_GB = 0.65, 141.0
"""Of MultiExoCon and PoseInj on an H200."""
VARIANTS = {"plain": [], "compiled blocks": ["compile=blocks"]}


@dataclass(frozen=True)
class Measured:
    """What steps took."""

    seconds: float
    """Median of a step."""
    peak_gb: float | None
    """Of the GPU's memory; None on a CPU."""


def run() -> list[Row]:
    """All rows; about two minutes on a CPU."""
    setting = GPU if torch.cuda.is_available() else replace(CPU, layers=2, heads=2, ffn=691)
    ceiling = matrix_tflops(setting, *((8192, 20) if setting is GPU else (1024, 20)))
    rows = [Row("matrix ceiling", ceiling, "TFLOP/s", note=str(setting.dtype))]
    for stage in ("multiexocon", "poseinj", "align"):
        for variant, more in VARIANTS.items():
            rows += _rows(setting, stage, variant, more, ceiling)
            gc.collect()
    return rows


def _experiment(setting: Setting, stage: str, more: list[str]) -> Experiment:
    """The stage's own on a GPU: the paper's clips a GPU in one pass; a small one on a CPU."""
    clips = {"align": 128} if setting is GPU else {"align": 2}
    batch = clips.get(stage, 3 if setting is GPU else 1)
    overrides = [f"batch.global_batch={batch}", f"batch.micro_batch={batch}", *more]
    if setting is not GPU:
        overrides.append("precision=fp32")
        small = {"align": "align.width=64 align.blocks=2 align.heads=1"}
        overrides += small.get(stage, "lora.rank=8 lora.alpha=8" * (stage == "multiexocon")).split()
    return load_experiment(stage, overrides)


def _rows(
    setting: Setting, stage: str, variant: str, more: list[str], ceiling: float
) -> Iterator[Row]:
    experiment = _experiment(setting, stage, more)
    model = _model(setting, stage, experiment)
    measured = _measured(setting, model, experiment)
    what = f"{stage if stage == 'align' else f'{setting_name(setting)}, {stage}'}, {variant}"
    clips = experiment.batch.global_batch
    yield Row(f"{what}: steps", 1 / measured.seconds, "a second", note=f"{clips} clips each")
    if setting is GPU or stage == "align":
        about = describe(experiment, clip=setting.clip, machine=Machine())
        bar = SHARE_BAR if setting is GPU and stage != "align" else None
        share = about.tflop_a_step / measured.seconds / ceiling
        yield Row(f"{what}: share of the matrix ceiling", share, "", bar)
        if measured.peak_gb:
            note = f"described {about.total_gb:.1f} GB"
            yield Row(f"{what}: peak memory", measured.peak_gb, "GB", None, MEMORY_GB, note)


def _model(setting: Setting, stage: str, experiment: Experiment) -> nn.Module:
    """As the trainer has it, with random weights."""
    if stage == "align":
        model = STAGES[stage].build(Origin(experiment, None, None, setting.device)).model
    else:
        model = nn.Module.to(generator_of(setting, cast(GeneratorStage, stage)), setting.device)
    train_in_fp32(model)
    if experiment.compile == "blocks":
        for block in blocks_of(model):
            block.compile()
    return model.train()


def _measured(setting: Setting, model: nn.Module, experiment: Experiment) -> Measured:
    on_gpu = setting is GPU
    stage, parameters = STAGES[experiment.stage], trained_parameters(model)
    optimiser = AdamW(parameters, experiment.optimiser)
    batch = _random_batch(setting, stage.reads(experiment), experiment.batch.global_batch)
    generators = [clip_generator(0, 0, clip_id) for clip_id in batch.clip_ids]

    def step(number: int) -> None:
        with arithmetic(experiment.precision, setting.device):
            loss = stage.losses(model, batch, generators, experiment).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), experiment.optimiser.clip_norm)
        optimiser.step(learning_rate(experiment.optimiser, number))
        if on_gpu:
            torch.cuda.synchronize()

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = [_timed(step, number) for number in range(WARM_UP + STEPS)][WARM_UP:]
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
    return Measured(median(seconds), peak)


def _timed(step: Callable[[int], None], number: int) -> float:
    began = time.perf_counter()
    step(number)
    return time.perf_counter() - began


def _random_batch(setting: Setting, reads: tuple[str, ...], clips: int) -> ClipBatch:
    """Numbers of a normal distribution, in the shapes that a stream gives."""
    g, blank = torch.Generator().manual_seed(2), blank_batch(reads, setting.clip, clips)
    arrays = {
        name: torch.randn(value.shape, generator=g).half().to(setting.device)
        for name, value in blank.arrays.items()
    }
    return replace(blank, arrays=arrays)
