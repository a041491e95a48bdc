"""Stage vawan: trained, resumed, loaded and sampled as any other, in each form."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.evaluate import evaluate
from exo2ego.evaluation.sample import sample
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.vawan.model import Vawan
from exo2ego.training.checkpoint import checkpoints, find_checkpoint, read_weights
from exo2ego.training.experiment import Experiment, VawanExperiment
from exo2ego.training.experiment_file import experiment_names, load_experiment
from exo2ego.training.losses import read_metrics
from exo2ego.training.stages import STAGES, given_of, load_model
from exo2ego.training.trainer import train
from stores.errors import ShapeFault
from stores.reading import Store
from stores.stream import ClipStream

MakeExperiment = Callable[..., Experiment]
TEST_1 = ["cmu_bike02_1-f000000", "cmu_bike02_3-f000000", "nus_covidtest_9-f000000"]
FORMS = {
    "none": ["vawan.pose={name='none'}"],
    "time_and_pose": ["vawan.pose={name='time_and_pose', width=10}", "vawan.views=1"],
    "ac3d-shared": ["vawan.pose.shared=true", "vawan.layout=exo-only"],
    "whole": ["vawan.training=whole"],
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_trained_resumed_loaded_and_sampled(
    form: str, framed_store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    experiment, arguments = tiny_experiment("vawan", *FORMS[form]), {"wan_spec": "tiny"}
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train("vawan", framed_store, straight, experiment, **arguments)
    shutil.copytree(straight, resumed)
    shutil.rmtree(checkpoints(resumed)[-1])
    train("vawan", framed_store, resumed, experiment, resume=True)
    losses = [[line.loss for line in read_metrics(run)] for run in (straight, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    weights = [read_weights(find_checkpoint(run)) for run in (straight, resumed)]
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())
    model = load_model(find_checkpoint(straight), wan_spec=None, device="cpu")
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in weights[0].items())
    quick = SamplerSettings(steps=2)
    sample(
        framed_store,
        straight,
        tmp_path / "out",
        vae_spec="tiny",
        sampler=quick,
        clips=ClipChoice(limit=1),
    )
    (made,) = (tmp_path / "out").glob("*.safetensors")
    assert load_file(made)["frames"].float().std() > 0


def test_a_checkpoint_holds_what_trained_and_nothing_else(runs: dict[str, Path]):
    names = set(read_weights(find_checkpoint(runs["vawan"])))
    lora = {name for name in names if ".lora_" in name}
    side = {name for name in names if ".side." in name}
    pose = {name for name in names if name.startswith("pose.")}
    assert (len(lora), len(side), len(pose)) == (16, 38, 10)
    assert names - lora - side - pose == {"wan.patch_embedding.exo.weight"}


def test_its_samples_can_be_scored(framed_store: Store, runs: dict[str, Path], tmp_path: Path):
    sample(framed_store, runs["vawan"], tmp_path, vae_spec="tiny", sampler=SamplerSettings(steps=2))
    report = evaluate(framed_store, tmp_path)
    assert sorted(report.clips) == TEST_1


def test_the_share_of_clips_without_exo_videos_is_that_of_the_other_stages(
    framed_store: Store, runs: dict[str, Path], tiny_experiment: MakeExperiment
):
    experiment: Any = tiny_experiment("vawan")
    stream = ClipStream(framed_store, STAGES["vawan"].reads(experiment), batch_size=2, seed=0)
    model: Any = load_model(find_checkpoint(runs["vawan"]), wan_spec=None, device="cpu")
    assert isinstance(model, Vawan)
    given = given_of(stream.batch_at(0), experiment, torch.tensor([True, False]))
    noisy, sigma = torch.zeros_like(given.condition), torch.tensor([0.4, 0.9])
    other = replace(given, exo_latents=given.exo_latents + 1)
    with torch.no_grad():
        changed = (model(noisy, sigma, other) != model(noisy, sigma, given)).flatten(1).any(dim=1)
    assert changed.tolist() == [True, False]


def test_too_few_views_in_the_store_say_what_to_do(
    framed_store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    experiment = tiny_experiment("vawan", "vawan.views=4")
    with pytest.raises(ShapeFault, match=r"vawan\.views=3"):
        train("vawan", framed_store, tmp_path, experiment, wan_spec="tiny")


ROWS = {  # views, training, pose
    "vawan": (4, "lora", ("ac3d", 512, False)),
    "vawan-v1": (1, "lora", ("ac3d", 512, False)),
    "vawan-whole": (4, "whole", ("ac3d", 512, False)),
    "vawan-gt-time-and-pose-v1": (1, "lora", ("time_and_pose",)),
    "vawan-gt-ac3d-512-v1": (1, "lora", ("ac3d", 512, False)),
    "vawan-gt-ac3d-512-v4": (4, "lora", ("ac3d", 512, False)),
    "vawan-gt-ac3d-512-shared": (4, "lora", ("ac3d", 512, True)),
    "vawan-gt-ac3d-2048": (4, "lora", ("ac3d", 2048, False)),
}


def test_there_is_an_experiment_for_every_row_of_tables_1_5_and_6():
    assert {name for name in experiment_names() if name.startswith("vawan")} == set(ROWS)
    for name, (views, training, pose) in ROWS.items():
        experiment = load_experiment(name)
        assert isinstance(experiment, VawanExperiment)
        settings = experiment.vawan
        assert (settings.views, settings.training, settings.pose.name) == (views, training, pose[0])
        assert [getattr(settings.pose, key) for key in ("width", "shared")[: len(pose) - 1]] == [
            *pose[1:]
        ]
