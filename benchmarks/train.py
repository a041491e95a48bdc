"""Training: what the loop adds to a bare PyTorch loop of the same model, and the wait for data.

On a CPU with small models on clips of the paper's size; all of it on two cores.
"""

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from benchmarks.rows import Row
from benchmarks.store_clips import EGO, EGO_RAYS, EXO, RAYS, clip_row, normal_row, write_store
from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from exo2ego.model.condition import ConditionSettings, TrueFrame
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.wan_expert import IN_CHANNELS, LOW_NOISE
from exo2ego.training.experiment import Experiment
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.first_frames import FIRST_FRAMES
from exo2ego.training.lineage import Source
from exo2ego.training.losses import StepMetrics, read_metrics
from exo2ego.training.run import Place, Run, open_run
from exo2ego.training.stages import arithmetic, clip_generator
from exo2ego.training.step import some_clips
from exo2ego.training.trainer import train
from exo2ego.training.watching import Watcher
from stores.derived import write_derived
from stores.reading import Store
from stores.schema import LATENT_CHANNELS
from stores.stream import ClipBatch
from stores.zarr_store import open_store

CLIPS, STEPS, WARM_UP, ROUNDS = 256, 12, 3, 5
LEAST_STEP_S = 0.2
"""Of the steps for which the bars hold; models here are as large as that takes."""
OVERHEAD_BAR, WAIT_BAR = 1.05, 0.02
ALIGN = "align.width=64 align.blocks=3 align.heads=1 batch.global_batch=8 batch.micro_batch=8"
GENERATOR = "condition.source.name=ground-truth batch.global_batch=1 batch.micro_batch=1"
LORA = "lora.rank=8 lora.alpha=8"
SMALL = {
    "align": ALIGN,
    "multiexocon": f"{GENERATOR} {LORA}",
    "poseinj": f"{GENERATOR} pose.latent_width=32 pose.token_width=32",
    "vawan": f"{GENERATOR} vawan.lora.rank=8 vawan.lora.alpha=8 vawan.pose.width=128 "
    "vawan.pose.latent_width=32",
}
"""What makes each stage's experiment small."""


@dataclass(frozen=True)
class Job:
    """A stage, and what it is trained with."""

    stage: str
    store: Store
    experiment: Experiment
    wan: str | None
    parent: Path | None

    @property
    def source(self) -> Source:
        """The same as the trainer takes it."""
        return Source(self.store, self.wan, self.parent, None)


class StepClock(Watcher):
    """When each step of a run was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def step(self, metrics: StepMetrics) -> None:
        self.times.append(time.perf_counter())


def run() -> list[Row]:
    """All rows; about six minutes."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_store(folder / "store", CLIPS, (EXO, EGO, RAYS, EGO_RAYS), normal_row)
        store = open_store(folder / "store", derive=CLIP_CAMERAS)
        _write_first_frames(store)
        jobs = _jobs(store, folder)
        return [row for job in jobs for row in _rows(job, folder)]


def _write_first_frames(store: Store) -> None:
    """First frames as if out of the truth: numbers, as all of this store."""
    condition = ConditionSettings(source=TrueFrame())
    about = {"source": condition.source.model_dump(), "fill": condition.fill}
    rows = (
        (clip_row(n).clip_id, {"first_latent": condition_row[0], "condition": condition_row})
        for n in range(CLIPS)
        for condition_row in [normal_row(EGO, n)]
    )
    write_derived(store, FIRST_FRAMES, "0" * 64, rows, about)


def _jobs(store: Store, folder: Path) -> list[Job]:
    wan = _write_wan(folder / "wan")
    more = [f"optimiser.steps={WARM_UP + STEPS}", "optimiser.warmup_steps=1", "held_out.every=0"]
    more += ["precision=fp32", "optimiser.states=fp32"]
    jobs = []
    for stage, small in SMALL.items():
        experiment = load_experiment(stage, [*small.split(), *more])
        own_wan = None if stage == "align" else wan
        parent = folder / "parent" if stage == "poseinj" else None
        jobs.append(Job(stage, store, experiment, own_wan, parent))
    first = jobs[1]
    one = ["optimiser.steps=1", "optimiser.warmup_steps=1", "held_out.every=0", "precision=fp32"]
    parent = load_experiment("multiexocon", [*SMALL["multiexocon"].split(), *one])
    train("multiexocon", store, folder / "parent", parent, wan_spec=first.wan)
    return jobs


def _write_wan(folder: Path) -> str:
    """A small Wan with random weights, of the real class."""
    with initial_weights_from(torch.Generator().manual_seed(0)):
        wan = WanTransformer3DModel(
            num_attention_heads=1,
            attention_head_dim=128,
            in_channels=IN_CHANNELS,
            out_channels=LATENT_CHANNELS,
            ffn_dim=345,
            num_layers=6,
        )
    wan.save_pretrained(folder / LOW_NOISE)
    return str(folder)


def _rows(job: Job, folder: Path) -> list[Row]:
    bare, ours, waits = [], [], []
    works: dict[str, Callable[[Path], float]] = {
        "bare": partial(_bare_step_s, job),
        "ours": partial(_our_step_s, job, waits),
    }
    for round_ in range(ROUNDS):
        for name, work in works.items():
            seconds = work(folder / f"{job.stage}-{name}-{round_}")
            (bare if name == "bare" else ours).append(seconds)
    ratios = [own / floor for own, floor in zip(ours, bare, strict=True)]
    what, spread = f"train {job.stage}", f"rounds {min(ratios):.3f} to {max(ratios):.3f}"
    return [
        Row(f"{what}: a step", median(ours), "s", at_least=LEAST_STEP_S),
        Row(f"{what}: over a bare loop", median(ratios), "x", at_most=OVERHEAD_BAR, note=spread),
        Row(f"{what}: waits for data", median(waits), "of the time", at_most=WAIT_BAR),
    ]


def _our_step_s(job: Job, waits: list[float], out: Path) -> float:
    """Median seconds from one step to the next in `train`."""
    clock = StepClock()
    train(
        job.stage,
        job.store,
        out,
        job.experiment,
        wan_spec=job.wan,
        parent=job.parent,
        watchers=[clock],
    )
    lines = read_metrics(out)[WARM_UP:]
    waited = sum(line.data_wait_s or 0.0 for line in lines)
    waits.append(waited / (waited + sum(line.step_s or 0.0 for line in lines)))
    return float(np.median(np.diff(clock.times[WARM_UP - 1 :])))


def _bare_step_s(job: Job, out: Path) -> float:
    """Median seconds of a step as one would write it by hand, on batches that are in memory."""
    run = open_run(job.source, out, job.experiment, Place(), allow_other_store=False)
    with closing(run):
        batches = [some_clips(next(run.stream), slice(None), "cpu") for _ in range(WARM_UP)]
        optimiser = torch.optim.AdamW(run.parameters.values(), lr=1e-4)
        times = [time.perf_counter()]
        for step in range(WARM_UP + STEPS):
            _bare_step(run, optimiser, step, batches[step % WARM_UP])
            times.append(time.perf_counter())
    return float(np.median(np.diff(times[WARM_UP:])))


def _bare_step(run: Run, optimiser: torch.optim.Optimizer, step: int, batch: ClipBatch) -> None:
    generators = [clip_generator(0, step, clip_id) for clip_id in batch.clip_ids]
    with arithmetic(run.experiment.precision, "cpu"):
        loss = run.stage.losses(run.model, batch, generators, run.experiment).mean()
    loss.backward()
    nn.utils.clip_grad_norm_(run.parameters.values(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
