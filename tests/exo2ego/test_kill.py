"""kill -9 at any moment of a run, again and again: the run ends as if nothing had been."""

import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from exo2ego.training.checkpoint import checkpoints, file_digest
from exo2ego.training.losses import METRICS, read_metrics
from stores.reading import Store
from tests.exo2ego.ranks import ended, start_rank

STEPS, KILLS, LONGEST_S = 60, 4, 120
SMALL = "precision=fp32 batch.global_batch=4 batch.micro_batch=2 ema_decay=0.9 checkpoint_every=3"
ALIGN = "align.width=32 align.blocks=1 align.heads=2 align.head_width=16"
GENERATOR = "lora.rank=3 lora.alpha=3"


def begin(stage: str, store: Store, out: Path) -> BaseProcess:
    """A process that trains into `out`, or goes on there."""
    small = [*SMALL.split(), *(ALIGN if stage == "align" else GENERATOR).split()]
    task = {"stage": stage, "store": str(store.path), "out": str(out), "sharing": "ddp"}
    task |= {"wan": None if stage == "align" else "tiny", "parent": None, "resume": True}
    task |= {"overrides": [*small, f"optimiser.steps={STEPS}", "optimiser.warmup_steps=5"]}
    return start_rank(task, {"RANK": 0, "WORLD_SIZE": 1}, out.with_suffix(".said"))


def steps_of(out: Path) -> int:
    return len(read_metrics(out)) if (out / METRICS).exists() else 0


@pytest.mark.parametrize("stage", ["align", "multiexocon"])
def test_a_run_that_is_killed_again_and_again_is_that_of_one_that_is_not(
    stage: str, framed_store: Store, tmp_path: Path
):
    """Each time after another number of steps, at a moment of chance within a step."""
    chance, killed = random.Random(stage), tmp_path / "killed"
    assert ended(begin(stage, framed_store, tmp_path / "whole"), LONGEST_S) == 0
    points = []
    for number in range(KILLS):
        process, until = begin(stage, framed_store, killed), 1 + number * STEPS // KILLS
        while process.is_alive() and steps_of(killed) < until + chance.randrange(5):
            time.sleep(0.01)
        time.sleep(chance.random() / 50)
        process.kill()
        assert ended(process, LONGEST_S) == -9, "it was done before it could be killed"
        points.append(steps_of(killed))
    assert ended(begin(stage, framed_store, killed), LONGEST_S) == 0
    whole, again = (
        [(m.loss, m.lr, m.grad_norm) for m in read_metrics(run)]
        for run in (tmp_path / "whole", killed)
    )
    assert again == whole, points
    for name in ("weights", "ema", "optimiser"):
        files = [
            checkpoints(run)[-1] / f"{name}.safetensors" for run in (tmp_path / "whole", killed)
        ]
        assert file_digest(files[0]) == file_digest(files[1]), (name, points)
