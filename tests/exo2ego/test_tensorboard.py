"""TensorBoard's files hold what metrics.jsonl holds, read back without the package's reader."""

import resource
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c
import pytest
from tensorboardX.proto.event_pb2 import Event

from exo2ego.training.checkpoint import checkpoints
from exo2ego.training.held_out import read_held_out
from exo2ego.training.losses import StepMetrics, read_metrics
from exo2ego.training.tensorboard import TENSORBOARD, PackageFault, TensorBoard
from exo2ego.training.trainer import train
from exo2ego.training.watching import Watcher
from stores.errors import StoreFault
from stores.reading import Store

TRUTH = "condition.source.name=ground-truth"


def masked(data: bytes) -> int:
    """The checksum that a TFRecord has of its bytes."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(file: Path) -> Iterator[bytes]:
    data, at = file.read_bytes(), 0
    while at < len(data):
        length, of_length = struct.unpack_from("<QI", data, at)
        assert of_length == masked(data[at : at + 8])
        body = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length) == (masked(body),)
        yield body
        at += 16 + length


def events_of(run: Path) -> list[Event]:
    files = sorted((run / TENSORBOARD).iterdir())
    return [Event.FromString(body) for file in files for body in records(file)]


def starts_of(run: Path) -> list[int]:
    """Steps from which on a session does again what was done before, and TensorBoard drops it."""
    events = events_of(run)
    return [event.step for event in events if event.session_log.status == event.session_log.START]


def scalars_of(run: Path) -> dict[tuple[str, int], float]:
    """Each scalar by its name and step; the newest of the same step counts."""
    every = [(event.step, value) for event in events_of(run) for value in event.summary.value]
    return {(value.tag, step): value.simple_value for step, value in every}


def expected_of(run: Path) -> dict[tuple[str, int], float | None]:
    found: dict[tuple[str, int], float | None] = {}
    for line in read_metrics(run):
        for name in ("loss", "grad_norm", "lr"):
            found["train/" + name, line.step] = getattr(line, name)
        for name in ("clips_per_s", "data_wait_s", "step_s"):
            found["time/" + name, line.step] = getattr(line, name)
    for line in read_held_out(run):
        found["held_out/loss", line.step] = line.loss
        found |= {(f"held_out/sigma_{s}", line.step): loss for s, loss in line.by_sigma.items()}
    return found


class PowerCut(RuntimeError):
    """What ends a run without asking it."""


class Cut(Watcher):
    def step(self, metrics: StepMetrics) -> None:
        if metrics.step == 3:
            raise PowerCut


def test_all_numbers_of_a_run_that_was_cut_off_and_resumed_are_there_once(
    watched_store: Store, tiny_experiment: Callable, tmp_path: Path
):
    experiment = tiny_experiment("multiexocon", TRUTH, "held_out.every=2", "held_out.clips=1")
    arguments = ("multiexocon", watched_store, tmp_path, experiment)
    with pytest.raises(PowerCut):
        train(*arguments, wan_spec="tiny", watchers=[TensorBoard(), Cut()])
    assert len(checkpoints(tmp_path)) == 1
    train(*arguments, resume=True, watchers=[TensorBoard()])
    assert starts_of(tmp_path) == [1, 3]
    expected = expected_of(tmp_path)
    assert len(expected) == 4 * 6 + 2 * 6
    assert scalars_of(tmp_path) == pytest.approx(expected, rel=1e-6)  # they are float32 there


def test_a_skipped_step_has_neither_loss_nor_norm(tmp_path: Path):
    board = TensorBoard()
    board.begin(tmp_path, 0, 9)
    board.step(StepMetrics(5, None, 1e-4, None, 8.0))
    board.end()
    assert set(scalars_of(tmp_path)) == {("train/lr", 5), ("time/clips_per_s", 5)}


def test_a_finished_run_that_is_resumed_gets_no_more_files(tmp_path: Path):
    board = TensorBoard()
    board.begin(tmp_path, 4, 4)
    board.end()
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    with pytest.raises(PackageFault, match=r"pip install 'exo2ego\[watch\]'"):
        TensorBoard()


def test_a_full_disk_is_told_and_not_waited_for(tmp_path: Path):
    board, (soft, hard) = TensorBoard(), resource.getrlimit(resource.RLIMIT_FSIZE)
    board.begin(tmp_path, 0, 10_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(StoreFault, match="disk refuses"):
            for step in range(1, 1000):
                board.step(StepMetrics(step, 0.5, 1e-4, 2.0, 8.0, 0.1, 0.4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        board.end()
