"""Real signals to a real `exo2ego train`: a checkpoint, and the exit code that says what to do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exo2ego.training.checkpoint import checkpoints, read_state
from exo2ego.training.interrupt import EXIT_CODES, exit_code
from exo2ego.training.losses import METRICS, read_metrics
from stores.reading import Store

ENDLESS = ["optimiser.steps=100000", "checkpoint_every=100000", "precision=fp32"]
TINY = ["align.width=32", "align.blocks=1", "align.heads=2", "align.head_width=16"]
BATCH = ["batch.global_batch=4", "batch.micro_batch=2"]


def train_process(store: Store, out: Path) -> subprocess.Popen[bytes]:
    settings = [word for one in (*ENDLESS, *TINY, *BATCH) for word in ("--set", one)]
    command = ["-m", "cli", "train", "--stage", "align", "--store", str(store.path)]
    return subprocess.Popen(
        [sys.executable, *command, "--out", str(out), "--device", "cpu", *settings],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGTERM, 75), (signal.SIGINT, 130)]
)
def test_a_signal_ends_training_with_a_checkpoint_and_its_code(
    number: signal.Signals, code: int, store: Store, tmp_path: Path
):
    with train_process(store, tmp_path) as process:
        wait_for(lambda: len(read_metrics(tmp_path)) > 1, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode == code, err.decode()
    (folder,) = checkpoints(tmp_path)
    assert read_state(folder).step == read_metrics(tmp_path)[-1].step
    assert number.name in out.decode()
    assert "--resume" in err.decode()
    assert (tmp_path / METRICS).read_bytes().endswith(b"\n")


def test_a_run_that_nobody_stopped_exits_with_0():
    assert exit_code(None) == 0
    assert {number.name: exit_code(number.name) for number in EXIT_CODES} == {
        "SIGINT": 130,
        "SIGTERM": 75,
        "SIGUSR1": 75,
    }
