"""Checkpoints: whole or not there, and read back bit for bit."""

from pathlib import Path

import orjson
import pytest
import torch

from exo2ego.training.checkpoint import (
    STATE,
    WEIGHTS,
    CheckpointFault,
    CheckpointState,
    checkpoints,
    find_checkpoint,
    read_state,
    read_weights,
    remove_old,
    write_checkpoint,
)


def state_of(step: int, **changes: object) -> CheckpointState:
    facts = {
        "stage": "align",
        "step": step,
        "store_hash": "1f3a" * 16,
        "experiment": {"seed": 0, "optimiser": {"lr": 1e-4}},
        "experiment_digest": "ab" * 32,
        "stream": {"step": step},
        "parent": None,
        "wan": None,
        "first_frames": None,
    }
    return CheckpointState.model_validate(facts | changes)


def weights_of(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a.weight": torch.randn(3, 5, generator=generator), "b": torch.zeros(2).bfloat16()}


def write(run: Path, step: int, **changes: object) -> Path:
    return write_checkpoint(run, state_of(step, **changes), weights_of(step), {})


def test_weights_and_state_come_back_as_they_were(tmp_path: Path):
    folder = write(tmp_path, 50)
    assert folder == tmp_path / "checkpoints" / "step-00000050"
    for name, value in read_weights(folder).items():
        torch.testing.assert_close(value, weights_of(50)[name], rtol=0, atol=0)
    state = read_state(folder)
    assert state.step == 50
    assert state.stream == {"step": 50}
    assert set(state.software) == {"python", "exo2ego", "torch", "diffusers", "peft"}


def test_a_run_means_its_newest_checkpoint_and_old_ones_go(tmp_path: Path):
    folders = [write(tmp_path, step) for step in (2, 10, 4)]
    assert find_checkpoint(tmp_path) == folders[1]
    assert find_checkpoint(folders[0]) == folders[0]
    remove_old(tmp_path, keep=2)
    assert checkpoints(tmp_path) == [folders[2], folders[1]]


def test_a_checkpoint_that_was_not_finished_does_not_count(tmp_path: Path):
    folder = write(tmp_path, 2)
    (tmp_path / "checkpoints" / ".step-00000004.partial").mkdir()
    assert find_checkpoint(tmp_path) == folder


@pytest.mark.parametrize("path", ["", "nowhere"])
def test_a_folder_without_checkpoint_is_a_fault(tmp_path: Path, path: str):
    with pytest.raises(CheckpointFault, match="exo2ego train"):
        find_checkpoint(tmp_path / path)


def test_altered_weights_are_refused(tmp_path: Path):
    folder = write(tmp_path, 2)
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointFault, match="digest"):
        read_weights(folder)


@pytest.mark.parametrize("broken", [b"", b"{}", b"[1]", None])
def test_a_broken_state_is_a_fault(tmp_path: Path, broken: bytes | None):
    folder = write(tmp_path, 2)
    if broken is None:
        newer = orjson.loads((folder / STATE).read_bytes()) | {"format": 99}
        broken = orjson.dumps(newer)
    (folder / STATE).write_bytes(broken)
    with pytest.raises(CheckpointFault, match="cannot be read"):
        read_state(folder)
