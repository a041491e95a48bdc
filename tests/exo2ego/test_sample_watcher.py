"""Samples while training: of the val split, when they are due, and nothing to the run."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.manifest import read_manifest
from exo2ego.evaluation.sample import sample
from exo2ego.evaluation.sample_watcher import SAMPLES, SampleWatcher
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.pretrained import WeightsFault
from exo2ego.training.checkpoint import checkpoints, file_digest
from exo2ego.training.interrupt import StopRequest
from exo2ego.training.losses import StepMetrics, read_metrics
from exo2ego.training.nan_guard import TrainingFault
from exo2ego.training.trainer import train
from exo2ego.training.watching import Watcher
from stores.reading import Store
from stores.zarr_store import open_store

QUICK = SamplerSettings(steps=2)
TRUTH = "condition.source.name=ground-truth"


def watcher_of(store: Store, stage: str, **changes: object) -> SampleWatcher:
    about = {"every": 2, "clips": 2, "vae_spec": "tiny", "sampler": QUICK}
    return SampleWatcher(store, stage, **about | changes)


def steps_of(run: Path) -> list[int]:
    return sorted(int(folder.name[-8:]) for folder in (run / SAMPLES).glob("step-*"))


VAL = ["nus_cpr_1-f000000", "nus_cpr_1-f000001"]
TEST = ["cmu_bike02_1-f000000", "cmu_bike02_3-f000000"]


@pytest.mark.parametrize(
    ("stage", "name", "clip_ids"), [("align", "test-1", TEST), ("multiexocon", "val", VAL)]
)
def test_a_run_is_sampled_every_so_many_steps_and_the_same_as_one_that_is_not(
    stage: str,
    name: str,
    clip_ids: list[str],
    watched_store: Store,
    tiny_experiment: Callable,
    tmp_path: Path,
):
    experiment = tiny_experiment(stage, *([TRUTH] if stage != "align" else []))
    wan, runs = None if stage == "align" else "tiny", (tmp_path / "watched", tmp_path / "plain")
    watchers = [watcher_of(watched_store, stage)]
    train(stage, watched_store, runs[0], experiment, wan_spec=wan, watchers=watchers)
    train(stage, watched_store, runs[1], experiment, wan_spec=wan)
    both = [[(line.loss, line.grad_norm) for line in read_metrics(run)] for run in runs]
    assert both[0] == both[1]
    digests = {file_digest(checkpoints(run)[-1] / "weights.safetensors") for run in runs}
    assert len(digests) == 1
    assert steps_of(runs[0]) == [2, 4]
    for step in (2, 4):
        folder = runs[0] / SAMPLES / f"step-{step:08d}"
        manifest = read_manifest(folder)
        settings = manifest.settings
        assert (settings.step, settings.evaluation_set or settings.split) == (step, name)
        assert list(manifest.clips) == clip_ids
        for clip in manifest.clips.values():
            assert all((folder / name).is_file() for name in clip.pictures)


def test_they_are_those_that_sample_makes_of_the_checkpoint(
    watched_store: Store, tiny_experiment: Callable, tmp_path: Path
):
    run, again = tmp_path / "run", tmp_path / "again"
    watchers = [watcher_of(watched_store, "multiexocon", every=4, clips=1)]
    experiment = tiny_experiment("multiexocon", TRUTH)
    train("multiexocon", watched_store, run, experiment, wan_spec="tiny", watchers=watchers)
    (folder,) = (run / SAMPLES).iterdir()
    clip = "nus_cpr_1-f000000"
    about = {
        "vae_spec": "tiny",
        "sampler": QUICK,
        "clips": ClipChoice(split="val", clip_ids=(clip,)),
    }
    sample(watched_store, run, again, **about)
    name = f"{clip}.safetensors"
    assert (folder / name).read_bytes() == (again / name).read_bytes()


def test_a_due_sample_comes_with_the_next_checkpoint_and_after_a_resumption_not_twice(
    watched_store: Store, tiny_experiment: Callable, tmp_path: Path
):
    often = ("optimiser.steps=6", "checkpoint_every=2")

    class Stop(Watcher):
        def step(self, metrics: StepMetrics) -> None:
            if metrics.step == 3:
                signal.raise_signal(signal.SIGUSR1)

    arguments = ("align", watched_store, tmp_path, tiny_experiment("align", *often))
    train(*arguments, watchers=[watcher_of(watched_store, "align", every=3, clips=1), Stop()])
    assert steps_of(tmp_path) == [], "a signal does not wait for samples"
    train(*arguments, watchers=[watcher_of(watched_store, "align", every=3, clips=1)], resume=True)
    assert steps_of(tmp_path) == [4, 6]


def test_a_signal_while_sampling_waits_for_one_clip_and_the_set_is_due_again(
    watched_store: Store, tiny_experiment: Callable, tmp_path: Path
):
    watcher, request = watcher_of(watched_store, "multiexocon", every=2), StopRequest()
    experiment = tiny_experiment("multiexocon", TRUTH, "checkpoint_every=1", "keep_checkpoints=3")
    arguments = ("multiexocon", watched_store, tmp_path, experiment)
    train(*arguments, wan_spec="tiny")
    second, third, _ = checkpoints(tmp_path)
    seen: list[str] = []

    class Request(StopRequest):
        """A signal arrives once the first clip is there."""

        @property
        def by(self) -> signal.Signals | None:
            seen[:] = [path.name for path in (tmp_path / SAMPLES).rglob("*.safetensors")]
            return signal.SIGUSR1 if seen else None

        @by.setter
        def by(self, _: signal.Signals | None) -> None:
            """Nobody sets it."""

    watcher.begin(tmp_path, 0, 4)
    watcher.saved(second, 2, Request())
    assert seen == [f"{VAL[0]}.safetensors"]
    watcher.begin(tmp_path, 2, 4)
    watcher.saved(third, 3, request)
    assert steps_of(tmp_path) == [2, 3]
    clips = [read_manifest(folder).clips for folder in sorted((tmp_path / SAMPLES).iterdir())]
    assert [list(of) for of in clips] == [VAL[:1], VAL]


def test_a_store_without_val_clips_is_sampled_by_its_test_clips(store: Store):
    assert watcher_of(store, "multiexocon").choice.clip_ids == tuple(TEST)


def test_a_store_without_any_such_clip_and_a_vae_that_is_not_there_are_told_before_the_first_step(
    store: Store, make_store: Callable[..., Path], clip_rows: list
):
    train_alone = open_store(make_store([row for row in clip_rows if row.split == "train"]))
    with pytest.raises(TrainingFault, match="no clip to sample"):
        watcher_of(train_alone, "align")
    with pytest.raises(WeightsFault):
        watcher_of(store, "align", vae_spec="nowhere")
