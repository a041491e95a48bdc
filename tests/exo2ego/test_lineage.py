"""Lineage: parents are found again, and a checkpoint of another run is refused by what differs."""

from pathlib import Path

import pytest
import torch

from exo2ego.training.checkpoint import (
    CheckpointFault,
    CheckpointState,
    Parent,
    find_checkpoint,
    read_state,
    write_checkpoint,
)
from exo2ego.training.lineage import check_same_run, parent_folder


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


def test_the_parent_is_found_after_both_were_moved_and_missed_when_it_is_gone(tmp_path: Path):
    parent = write(tmp_path / "old" / "first", 2)
    about = Parent.between(
        tmp_path / "old" / "second" / "checkpoints" / "step-00000004",
        parent,
        read_state(parent).weights_digest,
    )
    write(tmp_path / "old" / "second", 4, parent=about.model_dump())
    (tmp_path / "old").rename(tmp_path / "new")
    child = find_checkpoint(tmp_path / "new" / "second")
    found = parent_folder(child, read_state(child))
    assert found == (tmp_path / "new" / "first" / "checkpoints" / "step-00000002")
    (tmp_path / "new" / "first").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointFault, match="not where it was"):
        parent_folder(child, read_state(child))


def test_another_experiment_is_refused_by_the_key_that_differs(tmp_path: Path):
    now = state_of(0, experiment={"seed": 0, "optimiser": {"lr": 2e-4}})
    with pytest.raises(CheckpointFault, match=r"optimiser\.lr = 0\.0002"):
        check_same_run(tmp_path, state_of(2), now, allow_other_store=True)


def test_another_store_is_refused_in_five_parts_unless_allowed(tmp_path: Path):
    now = state_of(0, store_hash="9c07" * 16)
    with pytest.raises(CheckpointFault, match="--allow-other-store") as fault:
        check_same_run(tmp_path, state_of(2), now, allow_other_store=False)
    parts = ("where:", "expected: store 1f3a", "got:      store 9c07", "fix:")
    assert all(part in str(fault.value) for part in parts)
    check_same_run(tmp_path, state_of(2), now, allow_other_store=True)
