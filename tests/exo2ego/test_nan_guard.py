"""Steps that are not numbers: skipped as if they had not been, written down, and not for ever."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from exo2ego.training.checkpoint import OPTIMISER, checkpoints, find_checkpoint, read_weights
from exo2ego.training.experiment import Experiment
from exo2ego.training.losses import METRICS, read_metrics
from exo2ego.training.nan_guard import (
    SKIPPED,
    SkippedStep,
    TrainingFault,
    note_skipped,
    read_skipped,
)
from exo2ego.training.stages import STAGES
from exo2ego.training.trainer import train
from stores.reading import Store
from stores.stream import ClipBatch, ClipStream

SPOILED = "cmu_bike01_1-f000036"
ONE_CLIP = ("batch.global_batch=1", "batch.micro_batch=1", "checkpoint_every=1", "optimiser.lr=0.1")


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor]) -> None:
    """Changes the losses of stage align for one clip; everything else is as it is."""
    align = STAGES["align"]

    def losses(model, batch: ClipBatch, generators, experiment: Experiment) -> Tensor:
        right = align.losses(model, batch, generators, experiment)
        pairs = zip(right, batch.clip_ids, strict=True)
        return torch.stack([change(one) if clip == SPOILED else one for one, clip in pairs])

    monkeypatch.setitem(STAGES, "align", replace(align, losses=losses))


@pytest.fixture
def infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    """One train clip has an infinite loss."""
    spoil(monkeypatch, lambda losses: losses * math.inf)


@pytest.fixture
def steep(monkeypatch: pytest.MonkeyPatch) -> None:
    """One train clip has a finite loss whose gradient is not a number."""
    spoil(monkeypatch, lambda losses: losses + (losses - losses.detach()).sqrt())


def spoiled_steps(store: Store, steps: int, batch: int = 1) -> list[int]:
    """Steps, from 1, whose batch has the spoiled clip."""
    stream = ClipStream(store, (), batch_size=batch, seed=0)
    found = [step + 1 for step in range(steps) if SPOILED in stream.ids_at(step)]
    stream.close()
    return found


@pytest.mark.usefixtures("infinite")
def test_a_step_without_a_finite_loss_changes_neither_weights_nor_moments(
    store: Store, tiny_experiment: Callable[..., Experiment], tmp_path: Path
):
    (bad,) = spoiled_steps(store, 5)
    experiment = tiny_experiment("align", *ONE_CLIP, "optimiser.steps=5", "keep_checkpoints=5")
    report = train("align", store, tmp_path, experiment)
    assert (report.steps, report.finished, report.steps_skipped) == (5, True, 1)
    assert read_skipped(tmp_path) == [SkippedStep(bad, "loss", [SPOILED])]
    before, after = checkpoints(tmp_path)[bad - 2 : bad]
    for read in (read_weights, lambda folder: load_file(folder / OPTIMISER)):
        old, new = read(before), read(after)
        assert old.keys() == new.keys()
        assert all((old[name] == new[name]).all() for name in old)
    line = read_metrics(tmp_path)[bad - 1]
    assert (line.loss, line.grad_norm, line.is_skipped) == (None, None, True)
    assert line.lr > 0
    assert orjson.loads((tmp_path / METRICS).read_bytes().splitlines()[bad - 1])["loss"] is None


@pytest.mark.usefixtures("infinite")
def test_only_the_clips_without_a_finite_loss_are_named(
    store: Store, tiny_experiment: Callable[..., Experiment], tmp_path: Path
):
    experiment = tiny_experiment("align", "optimiser.steps=3", "nan.stop_after=9")
    train("align", store, tmp_path, experiment)
    assert [one.step for one in read_skipped(tmp_path)] == spoiled_steps(store, 3, batch=4)
    assert {clip for one in read_skipped(tmp_path) for clip in one.clip_ids} == {SPOILED}


@pytest.mark.usefixtures("steep")
def test_a_gradient_that_is_not_finite_is_skipped_too_and_the_whole_batch_named(
    store: Store, tiny_experiment: Callable[..., Experiment], tmp_path: Path
):
    train("align", store, tmp_path, tiny_experiment("align", "optimiser.steps=2"))
    skipped = read_skipped(tmp_path)
    assert [one.step for one in skipped] == spoiled_steps(store, 2, batch=4)
    assert {(one.what, len(one.clip_ids)) for one in skipped} == {("gradient", 4)}
    assert all(w.isfinite().all() for w in read_weights(find_checkpoint(tmp_path)).values())


def test_weights_that_went_wrong_end_the_run_with_clips_and_file(
    store: Store, tiny_experiment: Callable[..., Experiment], tmp_path: Path
):
    wild = tiny_experiment("align", "optimiser.lr=1e36", "optimiser.warmup_steps=0")
    with pytest.raises(TrainingFault, match=r"clips .*cmu_bike01_1-f0000") as fault:
        train("align", store, tmp_path, wild)
    assert SKIPPED in str(fault.value)
    assert [one.step for one in read_skipped(tmp_path)] == [2, 3, 4]
    assert [line.is_skipped for line in read_metrics(tmp_path)] == [False, True, True]
    assert find_checkpoint(tmp_path).name in str(fault.value.fix)


def test_skipped_steps_are_counted_across_a_resumption(
    store: Store, tiny_experiment: Callable[..., Experiment], tmp_path: Path
):
    wild = tiny_experiment("align", "optimiser.lr=1e36", "optimiser.warmup_steps=0")
    for _ in range(2):  # the checkpoint is of step 2, the first that was skipped
        with pytest.raises(TrainingFault):
            train("align", store, tmp_path, wild, resume=True)
        assert [one.step for one in read_skipped(tmp_path)] == [2, 3, 4]


@pytest.mark.usefixtures("infinite")
def test_a_run_with_skipped_steps_that_was_cut_off_ends_as_if_it_had_not_been(
    store: Store, tiny_experiment: Callable[..., Experiment], tmp_path: Path
):
    (bad,) = spoiled_steps(store, 5)
    experiment = tiny_experiment("align", *ONE_CLIP, "optimiser.steps=5", "keep_checkpoints=5")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for run in (whole, resumed):
        train("align", store, run, experiment)
    for folder in checkpoints(resumed)[bad - 1 :]:
        folder.rename(tmp_path / folder.name)
    train("align", store, resumed, experiment, resume=True)
    assert read_skipped(resumed) == read_skipped(whole)
    last = [find_checkpoint(run) for run in (whole, resumed)]
    assert read_weights(last[0]).keys() == read_weights(last[1]).keys()
    assert all((read_weights(last[0])[n] == w).all() for n, w in read_weights(last[1]).items())


def test_a_good_step_between_bad_ones_starts_the_count_again(tmp_path: Path):
    in_a_row = [
        note_skipped(tmp_path, SkippedStep(step, "loss", ["a"])) for step in (3, 5, 6, 8, 9, 10)
    ]
    assert in_a_row == [1, 1, 2, 1, 2, 3]
