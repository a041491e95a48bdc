"""Two processes train as one does: the same losses, by DDP and by FSDP2; on any number."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGUSR1

import pytest
import torch

from exo2ego.training.audit import audit
from exo2ego.training.checkpoint import (
    checkpoints,
    find_checkpoint,
    read_optimiser,
    read_state,
    read_weights,
)
from exo2ego.training.experiment import BatchSettings
from exo2ego.training.held_out import read_held_out
from exo2ego.training.history import read_starts
from exo2ego.training.losses import read_metrics
from exo2ego.training.nan_guard import read_skipped
from exo2ego.training.parallel import RankFault, Ranks
from stores.reading import Store
from tests.exo2ego.ranks import ended, start_rank

ROOT = Path(__file__).parents[2]
SMALL = ["precision=fp32", "batch.global_batch=4", "batch.micro_batch=1"]
SMALL += ["optimiser.steps=4", "optimiser.warmup_steps=2", "checkpoint_every=2"]
SMALL += ["ema_decay=0.9", "keep_checkpoints=4"]
TINY = {
    "align": "align.width=32 align.blocks=1 align.heads=2 align.head_width=16",
    "multiexocon": "lora.rank=3 lora.alpha=3",
    "poseinj": "pose.latent_width=6 pose.token_width=10",
    "vawan": "vawan.views=3 vawan.lora.rank=3 vawan.lora.alpha=3 "
    "vawan.pose.name=ac3d vawan.pose.width=24 vawan.pose.latent_width=6",
}
SHARINGS = ("ddp", "fsdp")
LONGEST_S = 120
"""Many times what two processes need on a crowded machine."""


@dataclass
class Started:
    """How the processes ended."""

    codes: list[int]
    errors: list[str]


@pytest.fixture(scope="session")
def start(
    store_path: Path,
    framed_store: Store,
    runs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Started]:
    """Starts so many processes on one run, as torchrun would, and waits for them."""

    def begin(
        stage: str,
        out: Path,
        processes: int,
        *more: str,
        sharing: str = "ddp",
        resume: bool = False,
        **more_of_the_task: object,
    ) -> Started:
        task = {"stage": stage, "out": str(out), "sharing": sharing, "resume": resume}
        task["store"] = str(store_path if stage == "align" else framed_store.path)
        task["overrides"] = [*SMALL, *TINY[stage].split(), *more]
        task["wan"] = "tiny" if stage in ("multiexocon", "vawan") else None
        task["parent"] = str(runs["multiexocon"]) if stage == "poseinj" else None
        task |= more_of_the_task
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        about = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        folder, started = tmp_path_factory.mktemp("said"), []
        said = [folder / str(rank) for rank in range(processes)]
        for rank in range(processes):
            own = about | {"RANK": rank, "LOCAL_RANK": rank}
            started.append(start_rank(task, own, said[rank]))
        codes = [ended(process, LONGEST_S) for process in started]
        return Started(codes, [path.read_text() for path in said])

    return begin


@pytest.fixture(scope="session")
def alone(
    start: Callable[..., Started], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The run of one process that the others are compared with, once a stage."""
    folder, done = tmp_path_factory.mktemp("alone"), set()

    def run(stage: str) -> Path:
        if stage not in done:
            ended = start(stage, folder / stage, 1)
            assert ended.codes == [0], ended.errors
            done.add(stage)
        return folder / stage

    return run


def losses(run: Path) -> list[float]:
    return [line.loss for line in read_metrics(run)]


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("stage", TINY)
def test_two_processes_have_the_losses_of_one(
    stage: str,
    sharing: str,
    alone: Callable[[str], Path],
    start: Callable[..., Started],
    tmp_path: Path,
):
    ended = start(stage, tmp_path, 2, sharing=sharing)
    assert ended.codes == [0, 0], ended.errors
    for said in ended.errors:  # one that is left may abort the process as Python ends
        assert not re.search("^threads .*gloo", said, re.M), said
    assert losses(tmp_path) == pytest.approx(losses(alone(stage)), rel=1e-5)
    norms = [[line.grad_norm for line in read_metrics(run)] for run in (tmp_path, alone(stage))]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    own, theirs = (read_state(find_checkpoint(run)) for run in (tmp_path, alone(stage)))
    assert own.stream == theirs.stream  # the same global batches, in the same order
    for name, value in read_weights(find_checkpoint(alone(stage))).items():
        other = read_weights(find_checkpoint(tmp_path))[name]
        torch.testing.assert_close(other, value, rtol=1e-3, atol=2e-5)
    for read in (read_optimiser, lambda folder: read_weights(folder, ema=True)):
        shapes = [
            {name: (value.shape, value.dtype) for name, value in read(find_checkpoint(run)).items()}
            for run in (tmp_path, alone(stage))
        ]
        assert shapes[0] == shapes[1]


def test_two_processes_measure_three_held_out_clips_as_one_does(
    watched_store: Store, start: Callable[..., Started], tmp_path: Path
):
    more = ("condition.source.name=ground-truth", "held_out.every=2", "held_out.clips=3")
    for processes in (1, 2):
        out, store = tmp_path / str(processes), str(watched_store.path)
        ended = start("multiexocon", out, processes, *more, sharing="fsdp", store=store)
        assert set(ended.codes) == {0}, ended.errors
    lines = [read_held_out(tmp_path / processes) for processes in ("1", "2")]
    assert [(line.step, line.clips) for line in lines[1]] == [(2, 3), (4, 3)]
    assert [a.loss for a in lines[1]] == pytest.approx([b.loss for b in lines[0]], rel=1e-5)


@pytest.mark.parametrize(("first", "then"), [((2, "fsdp"), (1, "ddp")), ((1, "ddp"), (2, "fsdp"))])
def test_a_run_goes_on_with_another_number_of_processes(
    first: tuple[int, str],
    then: tuple[int, str],
    alone: Callable[[str], Path],
    start: Callable[..., Started],
    tmp_path: Path,
):
    ended = start("multiexocon", tmp_path, first[0], sharing=first[1])
    assert set(ended.codes) == {0}, ended.errors
    shutil.rmtree(checkpoints(tmp_path)[-1])  # as if it had been cut off after step 2
    ended = start("multiexocon", tmp_path, then[0], sharing=then[1], resume=True)
    assert set(ended.codes) == {0}, ended.errors
    assert losses(tmp_path) == pytest.approx(losses(alone("multiexocon")), rel=1e-5)
    own, theirs = (read_state(find_checkpoint(run)) for run in (tmp_path, alone("multiexocon")))
    assert own.stream == theirs.stream
    assert [s.processes for s in read_starts(tmp_path)] == [first[0], then[0]]
    assert "on 2 x cpu" in str(audit(tmp_path))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.parametrize(("processes", "sharing"), [(1, "ddp"), (2, "ddp"), (2, "fsdp")])
def test_compiled_blocks_have_the_same_losses(
    processes: int,
    sharing: str,
    alone: Callable[[str], Path],
    start: Callable[..., Started],
    tmp_path: Path,
):
    ended = start("multiexocon", tmp_path, processes, "compile=blocks", sharing=sharing)
    assert set(ended.codes) == {0}, ended.errors
    assert re.search(r"graphs [1-9]", ended.errors[0])  # it was compiled indeed
    assert losses(tmp_path) == pytest.approx(losses(alone("multiexocon")), rel=1e-5)


def test_a_lost_process_ends_the_others_with_a_checkpoint_to_go_on_from(
    alone: Callable[[str], Path], start: Callable[..., Started], tmp_path: Path
):
    ended = start("multiexocon", tmp_path, 2, signal=(1, 3, SIGKILL))
    assert ended.codes == [2, -9]
    assert "Another process of this run is lost" in ended.errors[0]
    assert "step-00000003" in ended.errors[0]
    assert [folder.name for folder in checkpoints(tmp_path)][-1] == "step-00000003"
    ended = start("multiexocon", tmp_path, 1, resume=True)
    assert ended.codes == [0], ended.errors
    assert losses(tmp_path) == pytest.approx(losses(alone("multiexocon")), rel=1e-5)


def test_a_clip_that_is_not_a_number_is_skipped_by_all(
    start: Callable[..., Started], tmp_path: Path
):
    """In the file are the same steps and clips, whichever process had them."""
    for processes in (1, 2):
        out, more = tmp_path / str(processes), "nan.stop_after=5"
        ended = start("align", out, processes, more, nan_clip="cmu_bike01_1-f000036")
        assert set(ended.codes) == {0}, ended.errors
    skipped = [read_skipped(tmp_path / processes) for processes in ("1", "2")]
    assert skipped[0] == skipped[1] and skipped[0]
    steps = [line.step for line in read_metrics(tmp_path / "2") if line.is_skipped]
    assert steps == [line.step for line in skipped[1]]


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(
    start: Callable[..., Started], tmp_path: Path
):
    ended = start("align", tmp_path, 2, signal=(1, 2, SIGUSR1))
    assert ended.codes == [75, 75], ended.errors
    assert [folder.name for folder in checkpoints(tmp_path)][-1] == "step-00000003"


def test_a_lost_process_of_fsdp_names_the_last_whole_checkpoint(
    start: Callable[..., Started], tmp_path: Path
):
    ended = start("align", tmp_path, 2, sharing="fsdp", signal=(1, 3, SIGKILL))
    assert ended.codes == [2, -9]
    assert "step-00000002" in ended.errors[0]
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000002"]


def test_a_batch_that_the_processes_cannot_share_is_refused():
    settings = BatchSettings(global_batch=6, micro_batch=3)
    assert Ranks(0, 2).clips(settings) == 3
    with pytest.raises(RankFault, match="6 clips, 4 processes, micro_batch 3"):
        Ranks(0, 4).clips(settings)


def test_torchrun_starts_the_command_and_one_process_speaks(
    store_path: Path, alone: Callable[[str], Path], tmp_path: Path
):
    options = [f"--set={value}" for value in [*SMALL, *TINY["align"].split()]]
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(ROOT / "cli.py", "train", "--stage=align", f"--store={store_path}", "--json"),
            *(f"--out={tmp_path}", "--device=cpu", "--parallel=fsdp", *options),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=2 * LONGEST_S,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["steps"] == 4  # one object, not two
    assert losses(tmp_path) == pytest.approx(losses(alone("align")), rel=1e-5)
    assert [start.processes for start in read_starts(tmp_path)] == [2]


def test_parts_of_float8_weights_are_refused(start: Callable[..., Started], tmp_path: Path):
    more = ("memory.checkpointing=true", "memory.base=fp8")
    ended = start("poseinj", tmp_path, 2, *more, sharing="fsdp")
    assert ended.codes == [2, 2]
    assert "Weights in float8 cannot be shared in parts" in ended.errors[0]
