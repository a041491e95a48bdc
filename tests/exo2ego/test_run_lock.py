"""One process a run: a second one is told who trains, a dead one is in nobody's way."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from exo2ego.training.experiment import Experiment
from exo2ego.training.losses import METRICS
from exo2ego.training.trainer import train
from stores.errors import StoreFault
from stores.reading import Store

MakeExperiment = Callable[..., Experiment]
HOLD = """
import sys, time
from pathlib import Path
from stores.lock import write_lock
with write_lock(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(600)
"""


def holder_of(run: Path) -> subprocess.Popen[bytes]:
    """A process that holds the lock of a run."""
    place = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], env=place, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_into_a_folder_is_told_host_and_process_and_writes_nothing(
    resume: bool, store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    with holder_of(tmp_path) as process:
        with pytest.raises(StoreFault, match="Somebody else is writing this run") as told:
            train("align", store, tmp_path, tiny_experiment("align"), resume=resume)
        process.kill()
    assert f"process {process.pid} on {socket.gethostname()}" in str(told.value)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_lock_of_a_process_that_was_killed_is_in_nobodys_way(
    store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    with holder_of(tmp_path) as process:
        process.kill()
    assert (tmp_path / "lock").exists()
    assert train("align", store, tmp_path, tiny_experiment("align")).finished
    assert not (tmp_path / "lock").exists()


def test_the_lock_of_another_host_has_to_be_removed_by_hand(
    store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    about = {"pid": 1, "host": "node17", "since": "2026-01-01T00:00:00+00:00"}
    (tmp_path / "lock").write_bytes(orjson.dumps(about))
    with pytest.raises(StoreFault, match=r"on node17(.|\n)*remove .*lock"):
        train("align", store, tmp_path, tiny_experiment("align"))
    (tmp_path / "lock").unlink()
    assert train("align", store, tmp_path, tiny_experiment("align")).finished
    assert (tmp_path / METRICS).exists()
