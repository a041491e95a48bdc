"""Everything that watches, at once: losses, weights and optimiser are those of a run alone."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli import app
from exo2ego.evaluation.sample_watcher import SAMPLES, SampleWatcher
from exo2ego.model.flow import SamplerSettings
from exo2ego.training.best import BEST
from exo2ego.training.checkpoint import OPTIMISER, WEIGHTS, checkpoints
from exo2ego.training.experiment import Experiment
from exo2ego.training.held_out import HELD_OUT, read_held_out
from exo2ego.training.interrupt import StopRequest
from exo2ego.training.live import LiveLine
from exo2ego.training.losses import read_metrics
from exo2ego.training.plots import LOSS_PICTURE, LossPicture
from exo2ego.training.tensorboard import TENSORBOARD, TensorBoard
from exo2ego.training.trainer import train
from exo2ego.training.watching import Watcher, Watchers
from stores.reading import Store

MakeExperiment = Callable[..., Experiment]
TRUTH = "condition.source.name=ground-truth"
OFF = ("held_out.every=0", "keep_best=false")
ON = ("held_out.every=1", "held_out.clips=2", "checkpoint_every=1")
SEEN = {HELD_OUT, BEST, LOSS_PICTURE, TENSORBOARD, SAMPLES}
"""What only a run that is watched has in its folder."""


def everything(stage: str, store: Store) -> list[Watcher]:
    return [
        LiveLine(stage, console=Console(file=io.StringIO(), force_terminal=True)),
        LossPicture(stage),
        TensorBoard(),
        SampleWatcher(
            store, stage, every=1, clips=1, vae_spec="tiny", sampler=SamplerSettings(steps=1)
        ),
    ]


def exact(run: Path) -> tuple[list[tuple[object, ...]], bytes, bytes]:
    """Losses, and the last checkpoint's weights and optimiser, to the bit."""
    lines: list[tuple[object, ...]] = [
        (line.step, line.loss, line.lr, line.grad_norm) for line in read_metrics(run)
    ]
    last = checkpoints(run)[-1]
    return lines, (last / WEIGHTS).read_bytes(), (last / OPTIMISER).read_bytes()


@pytest.mark.parametrize("stage", ["align", "multiexocon", "poseinj", "vawan"])
def test_a_run_with_everything_on_is_a_run_with_everything_off(
    stage: str, watched_store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    truth = () if stage == "align" else (TRUTH,)
    watched, alone, parent = (tmp_path / name for name in ("watched", "alone", "parent"))
    about = {"wan_spec": None if stage == "align" else "tiny"}
    if stage == "poseinj":
        first = tiny_experiment("multiexocon", TRUTH, *OFF, "optimiser.steps=1")
        train("multiexocon", watched_store, parent, first, wan_spec="tiny")
        about = {"parent": parent}
    on, off = (tiny_experiment(stage, *truth, *words) for words in (ON, OFF))
    train(stage, watched_store, watched, on, watchers=everything(stage, watched_store), **about)
    train(stage, watched_store, alone, off, **about)
    assert exact(watched) == exact(alone)
    assert {path.name for path in watched.iterdir()} - {
        path.name for path in alone.iterdir()
    } == SEEN
    assert len(read_held_out(watched)) == len(list((watched / SAMPLES).iterdir())) == 4


def test_a_run_from_the_shell_with_everything_on(watched_store: Store, tmp_path: Path):
    settings = ["precision=fp32", "optimiser.steps=2", "checkpoint_every=1"]
    settings += ["batch.global_batch=2", "batch.micro_batch=2", "held_out.every=1"]
    settings += ["align.width=32", "align.blocks=1", "align.heads=2", "align.head_width=16"]
    words = ["train", "--stage", "align", "--store", str(watched_store.path), "--out"]
    words += [str(tmp_path), "--device", "cpu", "--sample-every", "2", "--samples", "1"]
    words += ["--vae", "tiny", "--tensorboard", *(w for one in settings for w in ("--set", one))]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} >= SEEN
    assert [folder.name for folder in (tmp_path / SAMPLES).iterdir()] == ["step-00000002"]
    assert "align 2/2" in done.stderr


class Told(Watcher):
    """Keeps in one list what several are told."""

    def __init__(self, name: str, told: list[str]):
        self._name, self._told = name, told

    def note(self, text: str) -> None:
        self._told.append(f"{self._name} {text}")

    def end(self) -> None:
        self._told.append(f"{self._name} end")


def test_all_are_told_in_their_order_and_end_in_the_reverse():
    told: list[str] = []
    watch = Watchers(Told("first", told), Told("second", told))
    watch.note("hello")
    watch.end()
    assert told == ["first hello", "second hello", "second end", "first end"]
    assert watch.notes == ["hello"]


class Refuses(Watcher):
    """Cannot begin, nor end."""

    def begin(self, run: Path, first: int, last: int) -> None:
        raise RuntimeError("no beginning")

    def end(self) -> None:
        raise RuntimeError("no end")


def test_one_that_cannot_begin_or_end_keeps_no_other_from_its_end(tmp_path: Path):
    told: list[str] = []
    watch = Watchers(Told("first", told), Refuses(), Told("last", told))
    with pytest.raises(RuntimeError, match="no beginning"):
        watch.begin(tmp_path, 0, 1)
    assert told == ["first end"]
    with pytest.raises(RuntimeError, match="no end"):
        watch.end()
    assert told == ["first end", "last end", "first end"]


def test_watchers_end_when_a_run_is_cut_off(
    store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    class Cut(Watcher):
        def saved(self, checkpoint: Path, step: int, stop: StopRequest) -> None:
            raise RuntimeError("cut")

    told: list[str] = []
    with pytest.raises(RuntimeError, match="cut"):
        train(
            "align", store, tmp_path, tiny_experiment("align"), watchers=[Told("it", told), Cut()]
        )
    assert told[-1] == "it end"
