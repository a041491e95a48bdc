"""Lineage: parents are found again, and a checkpoint of another run is refused by what differs."""

from pathlib import Path
from typing import Any

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
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.lineage import check_same_run, parent_folder


def experiment(name: str = "align", *overrides: str) -> dict[str, Any]:
    return load_experiment(name, overrides).model_dump(mode="json")


def state_of(step: int, **changes: object) -> CheckpointState:
    facts = {
        "stage": "align",
        "step": step,
        "store_hash": "1f3a" * 16,
        "experiment": experiment(),
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
    now = state_of(0, experiment=experiment("align", "optimiser.lr=2e-4"))
    with pytest.raises(CheckpointFault, match=r"optimiser\.lr = 0\.0002"):
        check_same_run(tmp_path, state_of(2), now, allow_other_store=True)


def test_a_run_that_is_older_than_a_key_was_trained_with_its_default(tmp_path: Path):
    old = experiment("poseinj")
    del old["pose"]["rays"]
    found = state_of(2, stage="poseinj", experiment=old)
    same = state_of(0, stage="poseinj", experiment=experiment("poseinj"))
    check_same_run(tmp_path, found, same, allow_other_store=False)
    other = experiment("poseinj", "pose.rays=ego_motion_rays")
    now = state_of(0, stage="poseinj", experiment=other)
    with pytest.raises(CheckpointFault, match=r"pose\.rays = ego_motion_rays"):
        check_same_run(tmp_path, found, now, allow_other_store=False)


def test_another_store_is_refused_in_five_parts_unless_allowed(tmp_path: Path):
    now = state_of(0, store_hash="9c07" * 16)
    with pytest.raises(CheckpointFault, match="--allow-other-store") as fault:
        check_same_run(tmp_path, state_of(2), now, allow_other_store=False)
    parts = ("where:", "expected: store 1f3a", "got:      store 9c07", "fix:")
    assert all(part in str(fault.value) for part in parts)
    check_same_run(tmp_path, state_of(2), now, allow_other_store=True)
