"""The loop: exact, resumable, and clear about what it refuses."""

import math
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import save_on_cpu

from exo2ego.training import step as step_module
from exo2ego.training.checkpoint import (
    CheckpointFault,
    checkpoints,
    file_digest,
    find_checkpoint,
    read_state,
    read_weights,
)
from exo2ego.training.experiment import Experiment, OptimiserSettings
from exo2ego.training.interrupt import EXIT_CODES
from exo2ego.training.losses import METRICS, StepMetrics, read_metrics
from exo2ego.training.nan_guard import TrainingFault
from exo2ego.training.optimiser import learning_rate
from exo2ego.training.stages import load_model
from exo2ego.training.trainer import train
from stores.errors import StoreFault
from stores.progress import Item, Track
from stores.reading import Store
from stores.zarr_store import open_store

MakeExperiment = Callable[..., Experiment]


class PowerCut(RuntimeError):
    """What ends a run without asking it."""


def before_step(number: int, action: Callable[[], None]) -> Track:
    """A track that acts just before the step of that number (the first is 0)."""

    def track(items: Iterable[Item], /, *, total: int, what: str, unit: str) -> Iterator[Item]:
        for item in items:
            if item == number:
                action()
            yield item

    return track


def cut_power() -> None:
    raise PowerCut


def exact(run: Path) -> list[tuple[int, float, float, float]]:
    """The lines of metrics without the clock."""
    return [(line.step, line.loss, line.lr, line.grad_norm) for line in read_metrics(run)]


def final_weights(run: Path) -> str:
    return file_digest(checkpoints(run)[-1] / "weights.safetensors")


ARGUMENTS = {
    "align": {},
    "multiexocon": {"wan_spec": "tiny"},
    "poseinj": {},
    "vawan": {"wan_spec": "tiny"},
}


@pytest.mark.parametrize("stage", ARGUMENTS)
@pytest.mark.parametrize("step", [1, 3])
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(
    stage: str,
    step: int,
    store: Store,
    framed_store: Store,
    runs: dict[str, Path],
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
):
    source, experiment = store if stage == "align" else framed_store, tiny_experiment(stage)
    arguments = ARGUMENTS[stage] | ({"parent": runs["multiexocon"]} if stage == "poseinj" else {})
    out = tmp_path / stage
    with pytest.raises(PowerCut):
        train(stage, source, out, experiment, track=before_step(step, cut_power), **arguments)
    if not checkpoints(out):  # what the run was given is not written down yet
        train(stage, source, out, experiment, resume=True, **arguments)
    else:
        train(stage, source, out, experiment, resume=True)
    assert exact(out) == exact(runs[stage])
    assert final_weights(out) == final_weights(runs[stage])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_the_step_with_a_checkpoint_from_which_it_goes_on(
    number: signal.Signals,
    store: Store,
    runs: dict[str, Path],
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
):
    handlers = [signal.getsignal(one) for one in EXIT_CODES]
    stop = before_step(0, lambda: signal.raise_signal(number))
    report = train("align", store, tmp_path, tiny_experiment("align"), track=stop)
    assert (report.steps, report.finished, report.stopped_by) == (1, False, number.name)
    assert read_state(report.checkpoint).step == 1
    assert handlers == [signal.getsignal(one) for one in EXIT_CODES]
    report = train("align", store, tmp_path, tiny_experiment("align"), resume=True)
    assert (report.finished, report.stopped_by) == (True, None)
    assert exact(tmp_path) == exact(runs["align"])
    assert final_weights(tmp_path) == final_weights(runs["align"])


@pytest.fixture
def listening_to_ctrl_c() -> Iterator[None]:
    """Python's own answer to Ctrl-C; a shell's background jobs are started without one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening_to_ctrl_c")
def test_a_second_ctrl_c_is_not_held_back(
    store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train("align", store, tmp_path, tiny_experiment("align"), track=before_step(0, twice))


def test_training_outside_the_main_thread_works(
    store: Store, runs: dict[str, Path], tiny_experiment: MakeExperiment, tmp_path: Path
):
    arguments = ("align", store, tmp_path, tiny_experiment("align"))
    thread = threading.Thread(target=train, args=arguments)
    thread.start()
    thread.join()
    assert exact(tmp_path) == exact(runs["align"])


def test_losses_do_not_depend_on_how_a_batch_is_cut(
    framed_store: Store, runs: dict[str, Path], tiny_experiment: MakeExperiment, tmp_path: Path
):
    for micro in (1, 4):
        out = tmp_path / str(micro)
        experiment = tiny_experiment("multiexocon", f"batch.micro_batch={micro}")
        train("multiexocon", framed_store, out, experiment, wan_spec="tiny")
        for cut, whole in zip(read_metrics(out), read_metrics(runs["multiexocon"]), strict=True):
            assert cut.loss == pytest.approx(whole.loss, rel=1e-5)


def test_training_lowers_the_loss(store: Store, tiny_experiment: MakeExperiment, tmp_path: Path):
    faster = ["optimiser.steps=40", "optimiser.lr=0.01", "checkpoint_every=40"]
    report = train("align", store, tmp_path, tiny_experiment("align", *faster))
    losses = [line.loss for line in read_metrics(tmp_path)]
    assert losses[-1] < 0.9 * losses[0]
    assert report.final_loss == losses[-1]
    assert report.clips_per_second > 0


def test_metrics_after_the_checkpoint_are_done_again_not_kept_twice(
    store: Store, runs: dict[str, Path], tiny_experiment: MakeExperiment, tmp_path: Path
):
    with pytest.raises(PowerCut):
        cut = before_step(3, cut_power)
        train("align", store, tmp_path, tiny_experiment("align"), track=cut)
    assert [line.step for line in read_metrics(tmp_path)] == [1, 2, 3]
    with (tmp_path / METRICS).open("ab") as file:
        file.write(b'{"step":4,"lo')
    train("align", store, tmp_path, tiny_experiment("align"), resume=True)
    assert exact(tmp_path) == exact(runs["align"])


def test_resuming_a_finished_run_changes_nothing(
    store: Store, runs: dict[str, Path], tiny_experiment: MakeExperiment, tmp_path: Path
):
    shutil.copytree(runs["align"], tmp_path / "run")
    report = train("align", store, tmp_path / "run", tiny_experiment("align"), resume=True)
    assert (report.steps, report.finished, report.clips_per_second) == (4, True, 0.0)
    assert read_metrics(tmp_path / "run") == read_metrics(runs["align"])


def test_only_the_newest_checkpoints_stay(
    store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    experiment = tiny_experiment("align", "checkpoint_every=1", "keep_checkpoints=2")
    train("align", store, tmp_path, experiment)
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]


def test_a_run_is_not_overwritten(store: Store, runs: dict[str, Path], tiny_experiment):
    with pytest.raises(TrainingFault, match="--resume"):
        train("align", store, runs["align"], tiny_experiment("align"))


def test_an_experiment_of_another_stage_is_refused(
    store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    with pytest.raises(TrainingFault, match="of another stage"):
        train("multiexocon", store, tmp_path, tiny_experiment("align"))


def test_another_experiment_is_refused_on_resume(
    store: Store, runs: dict[str, Path], tiny_experiment: MakeExperiment
):
    with pytest.raises(CheckpointFault, match=r"optimiser\.lr = 0\.002"):
        other = tiny_experiment("align", "optimiser.lr=0.002")
        train("align", store, runs["align"], other, resume=True)


def test_another_store_is_refused_on_resume_unless_allowed(
    store_path: Path,
    make_store: Callable[..., Path],
    clip_rows: list,
    runs: dict[str, Path],
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
):
    other = open_store(make_store(clip_rows, seed=77))
    out = tmp_path / "run"
    shutil.copytree(runs["align"], out)
    shutil.rmtree(checkpoints(out)[-1])
    with pytest.raises(CheckpointFault, match="--allow-other-store"):
        train("align", other, out, tiny_experiment("align"), resume=True)
    train("align", other, out, tiny_experiment("align"), resume=True, allow_other_store=True)
    assert exact(out)[:2] == exact(runs["align"])[:2]
    assert exact(out)[2:] != exact(runs["align"])[2:]
    assert read_state(checkpoints(out)[-1]).store_hash == other.hash


def test_the_generator_does_not_train_without_first_frames(
    store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    with pytest.raises(StoreFault, match="encode-first-frames"):
        experiment = tiny_experiment("multiexocon")
        train("multiexocon", store, tmp_path, experiment, wan_spec="tiny")


def test_bf16_trains(framed_store: Store, tiny_experiment: MakeExperiment, tmp_path: Path):
    experiment = tiny_experiment("multiexocon", "precision=bf16", "optimiser.steps=1")
    report = train("multiexocon", framed_store, tmp_path, experiment, wan_spec="tiny")
    assert math.isfinite(report.final_loss)


def test_the_learning_rate_warms_up_and_falls_to_its_least():
    settings = OptimiserSettings(lr=1.0, min_lr=0.1, warmup_steps=4, steps=10)
    rates = [learning_rate(settings, step) for step in range(10)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[-1] == pytest.approx(0.1)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_metrics_have_one_line_a_step(runs: dict[str, Path]):
    lines = read_metrics(runs["poseinj"])
    assert [line.step for line in lines] == [1, 2, 3, 4]
    assert all(isinstance(line, StepMetrics) and line.clips_per_s > 0 for line in lines)


def test_poseinj_trains_on_a_float8_base_and_its_checkpoint_is_as_any_other(
    framed_store: Store, runs: dict[str, Path], tiny_experiment: Callable, tmp_path: Path
) -> None:
    spare = ("precision=bf16", "memory={checkpointing=true, base='fp8'}")
    experiment = tiny_experiment("poseinj", *spare)
    report = train(
        "poseinj",
        framed_store,
        tmp_path / "run",
        experiment,
        wan_spec="tiny",
        parent=runs["multiexocon"],
    )
    plain = read_weights(find_checkpoint(runs["poseinj"]))
    spared = read_weights(report.checkpoint)
    assert {name: (w.dtype, w.shape) for name, w in spared.items()} == {
        name: (w.dtype, w.shape) for name, w in plain.items()
    }
    model = load_model(report.checkpoint, wan_spec=None, device="cpu")
    assert all(torch.equal(dict(model.named_parameters())[n], w) for n, w in spared.items())


def test_activations_on_the_host_change_no_bit(
    framed_store: Store,
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    used = []

    def noted(**options: bool) -> save_on_cpu:
        used.append(options)
        return save_on_cpu(**options)

    monkeypatch.setattr(step_module, "save_on_cpu", noted)
    for where in ("device", "host"):
        experiment = tiny_experiment("multiexocon", f"memory.activations={where}")
        train("multiexocon", framed_store, tmp_path / where, experiment, wan_spec="tiny")
        assert bool(used) == (where == "host")
    runs = [read_metrics(tmp_path / where) for where in ("device", "host")]
    assert [a.loss for a in runs[0]] == [b.loss for b in runs[1]]
    assert [a.grad_norm for a in runs[0]] == [b.grad_norm for b in runs[1]]
