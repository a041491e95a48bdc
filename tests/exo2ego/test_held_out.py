"""The held-out loss: the same whenever it is measured, and nothing to the training."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch
from torch import Tensor

from exo2ego.training.best import BEST, find_best, note_best
from exo2ego.training.checkpoint import checkpoint_folder, checkpoints, file_digest, read_state
from exo2ego.training.experiment import Experiment
from exo2ego.training.held_out import (
    HELD_OUT,
    HeldOutLoss,
    NoisyHeldOutSettings,
    append_held_out,
    evenly,
    held_out_loss,
    read_held_out,
)
from exo2ego.training.lineage import Source
from exo2ego.training.losses import read_metrics
from exo2ego.training.measure import open_held_out
from exo2ego.training.run import Place, open_run
from exo2ego.training.trainer import train
from stores.reading import Store

MakeExperiment = Callable[..., Experiment]
OFTEN = ("held_out.every=1", "held_out.clips=3")
STAGES = ["align", "multiexocon", "vawan"]


def settings_of(stage: str, *more: str) -> list[str]:
    truth = ["condition.source.name=ground-truth"] if stage != "align" else []
    return [*truth, *more]


def wan_of(stage: str) -> str | None:
    return None if stage == "align" else "tiny"


def numbers(run: Path) -> list[tuple[object, ...]]:
    return [(line.step, line.loss, line.by_sigma, line.clips) for line in read_held_out(run)]


def trained(run: Path) -> tuple[list[tuple[object, ...]], str]:
    lines: list[tuple[object, ...]] = [
        (line.step, line.loss, line.lr, line.grad_norm) for line in read_metrics(run)
    ]
    return lines, file_digest(checkpoints(run)[-1] / "weights.safetensors")


@pytest.fixture(scope="module", params=STAGES)
def measured(
    request: pytest.FixtureRequest,
    watched_store: Store,
    tiny_experiment: MakeExperiment,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Experiment, Path]:
    """A run of a stage that was measured after every step."""
    stage, out = request.param, tmp_path_factory.mktemp("measured")
    experiment = tiny_experiment(stage, *settings_of(stage, *OFTEN, "keep_checkpoints=9"))
    train(stage, watched_store, out, experiment, wan_spec=wan_of(stage))
    return stage, experiment, out


def test_measuring_changes_neither_losses_nor_weights(
    measured: tuple[str, Experiment, Path],
    watched_store: Store,
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
):
    stage, _, run = measured
    never = tiny_experiment(stage, *settings_of(stage, "held_out.every=0"))
    train(stage, watched_store, tmp_path, never, wan_spec=wan_of(stage))
    assert trained(tmp_path) == trained(run)
    assert not (tmp_path / HELD_OUT).exists()


def test_a_resumed_run_measures_what_one_that_went_through_does(
    measured: tuple[str, Experiment, Path], watched_store: Store, tmp_path: Path
):
    stage, experiment, run = measured
    out = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(checkpoints(out)[-1])
    train(stage, watched_store, out, experiment, resume=True)
    assert numbers(out) == numbers(run)
    assert [line.step for line in read_held_out(out)] == [1, 2, 3, 4]


def test_a_measurement_that_a_signal_prevented_is_made_when_the_run_goes_on(
    measured: tuple[str, Experiment, Path], watched_store: Store, tmp_path: Path
):
    stage, experiment, run = measured
    out = Path(shutil.copytree(run, tmp_path / "run"))
    whole = (out / HELD_OUT).read_bytes()
    (out / HELD_OUT).write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    (out / BEST).unlink()
    train(stage, watched_store, out, experiment, resume=True)
    assert numbers(out) == numbers(run)
    assert (out / BEST).read_bytes() == (run / BEST).read_bytes()


def test_it_is_the_mean_over_clips_and_noise_levels_and_changes_as_the_weights_do(
    measured: tuple[str, Experiment, Path],
):
    _, experiment, run = measured
    settings = experiment.held_out
    levels = settings.sigmas if isinstance(settings, NoisyHeldOutSettings) else ()
    for line in read_held_out(run):
        assert line.clips == 3
        assert list(line.by_sigma) == [str(sigma) for sigma in levels]
        losses = [loss for loss in line.by_sigma.values() if loss is not None]
        assert len(set(losses)) == len(levels)
        if levels:
            assert line.loss == pytest.approx(sum(losses) / len(levels))
    assert len({line.loss for line in read_held_out(run)}) == 4


def test_measuring_twice_gives_the_same_draws_nothing_and_leaves_the_model_in_training_mode(
    watched_store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    experiment = tiny_experiment("multiexocon", *settings_of("multiexocon", *OFTEN))
    source = Source(watched_store, "tiny", None, None)
    run = open_run(source, tmp_path, experiment, Place(), allow_other_store=False)
    held_out = open_held_out(run)
    assert held_out is not None
    assert held_out.stream.clip_ids == watched_store.select(split="val")
    random = torch.random.get_rng_state()
    lines = [held_out.measure(0) for _ in range(2)]
    assert (lines[0].loss, lines[0].by_sigma) == (lines[1].loss, lines[1].by_sigma)
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(module.training for module in run.model.modules())
    assert all(parameter.grad is None for parameter in run.model.parameters())
    run.stream.close()
    held_out.stream.close()


def test_it_does_not_depend_on_how_many_clips_run_at_once(
    measured: tuple[str, Experiment, Path],
    watched_store: Store,
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
):
    stage, _, run = measured
    one = tiny_experiment(
        stage, *settings_of(stage, *OFTEN, "batch.micro_batch=1", "optimiser.steps=4")
    )
    train(stage, watched_store, tmp_path, one, wan_spec=wan_of(stage))
    for alone, together in zip(read_held_out(tmp_path), read_held_out(run), strict=True):
        assert alone.loss == pytest.approx(together.loss, rel=1e-4)


def test_a_store_without_held_out_clips_is_told_and_trained_on(
    store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    report = train("align", store, tmp_path, tiny_experiment("align"))
    assert report.notes == ["The store has no clip of split val: there is no held-out loss."]
    assert not (tmp_path / HELD_OUT).exists()


def test_the_best_checkpoint_stays_and_best_json_names_it(
    watched_store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    rising = ("optimiser.lr=1.0", "optimiser.warmup_steps=3", "optimiser.steps=8")
    often = (*OFTEN, "checkpoint_every=1", "keep_checkpoints=1")
    train("align", watched_store, tmp_path, tiny_experiment("align", *often, *rising))
    lines = read_held_out(tmp_path)
    best = min(lines, key=lambda line: line.loss or 0.0)
    assert best.step < 8, "of a run that gets better all the time this would show nothing"
    saved = [read_state(folder).step for folder in checkpoints(tmp_path)]
    assert saved == [best.step, 8]
    about = orjson.loads((tmp_path / BEST).read_bytes())
    assert about == {
        "checkpoint": f"step-{best.step:08d}",
        "step": best.step,
        "held_out_loss": best.loss,
    }


def line_of(step: int, loss: float | None) -> HeldOutLoss:
    return HeldOutLoss(step, loss, {}, 1, 0.0)


def test_the_best_is_the_earliest_of_equal_ones_on_disk_and_never_one_that_is_no_number(
    tmp_path: Path,
):
    for step, loss in ((1, 0.1), (2, None), (3, 0.5), (4, 0.5)):
        append_held_out(tmp_path, line_of(step, loss))
    for step in (2, 3, 4):
        checkpoint_folder(tmp_path, step).mkdir(parents=True)
    assert find_best(tmp_path) == line_of(3, 0.5)
    checkpoint_folder(tmp_path, 3).rmdir()
    checkpoint_folder(tmp_path, 4).rmdir()
    (tmp_path / BEST).write_text("of a better time")
    assert note_best(tmp_path) is None
    assert not (tmp_path / BEST).exists()


def test_a_loss_that_is_no_number_is_null():
    wild: dict[float | None, Tensor] = {0.5: torch.tensor([1.0, float("nan")])}
    assert replace(held_out_loss(2, wild, 0.0), seconds=0.0) == HeldOutLoss(
        2, None, {"0.5": None}, 2, 0.0
    )


def test_clips_are_taken_evenly():
    assert evenly([*"abcdefgh"], 3) == ["a", "c", "f"]
    assert evenly([*"ab"], 3) == ["a", "b"]
    assert evenly([], 3) == []
