"""Averaged weights: the formula, what a checkpoint keeps of them, and sampling with them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.manifest import read_manifest
from exo2ego.evaluation.sample import sample
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.wan import ADAPTER
from exo2ego.training.checkpoint import (
    CheckpointFault,
    checkpoints,
    file_digest,
    find_checkpoint,
    read_weights,
)
from exo2ego.training.ema import Ema
from exo2ego.training.experiment import Experiment
from exo2ego.training.export import export
from exo2ego.training.export.trained import read_trained
from exo2ego.training.trainer import train
from stores.reading import Store

ONE = ClipChoice(limit=1)
QUICK = SamplerSettings(steps=2)


def test_it_is_the_recursion_written_out() -> None:
    parameter = nn.Parameter(torch.tensor([3.0, -1.0]))
    ema, expected = Ema({"w": parameter}, 0.6), parameter.detach().clone()
    for step in range(8):
        with torch.no_grad():
            parameter += 0.5 * (step + 1)
        stays = min(0.6, (1 + step) / (10 + step))
        expected = stays * expected + (1 - stays) * parameter.detach()
        ema.update(step)
    torch.testing.assert_close(ema.average["w"], expected)


def test_a_run_that_was_stopped_has_the_averages_of_one_that_was_not(
    framed_store: Store, tiny_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = tiny_experiment("multiexocon", "ema_decay=0.9")
    for name in ("whole", "cut"):
        train("multiexocon", framed_store, tmp_path / name, experiment, wan_spec="tiny")
    checkpoints(tmp_path / "cut")[-1].rename(tmp_path / "gone")
    train("multiexocon", framed_store, tmp_path / "cut", experiment, resume=True)
    files = [find_checkpoint(tmp_path / name) / "ema.safetensors" for name in ("whole", "cut")]
    assert file_digest(files[0]) == file_digest(files[1])
    averages, weights = read_weights(files[0].parent, ema=True), read_weights(files[0].parent)
    assert averages.keys() == weights.keys()
    assert any(not torch.equal(averages[name], weights[name]) for name in weights)


def test_sampling_takes_the_averages_if_asked_and_says_so(
    framed_store: Store, tiny_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """With a rate that moves them, frames differ; a run without averages is refused."""
    faster = ("ema_decay=0.9", "optimiser.lr=0.05", "optimiser.warmup_steps=1")
    run = tmp_path / "run"
    train(
        "multiexocon", framed_store, run, tiny_experiment("multiexocon", *faster), wan_spec="tiny"
    )
    frames = []
    for ema in (False, True):
        out = tmp_path / f"ema-{ema}"
        sample(framed_store, run, out, vae_spec="tiny", clips=ONE, sampler=QUICK, ema=ema)
        file = find_checkpoint(run) / ("ema.safetensors" if ema else "weights.safetensors")
        assert read_manifest(out).settings.weights_digest == file_digest(file)
        (path,) = out.glob("*.safetensors")
        frames.append(load_file(path)["frames"])
    assert not torch.equal(*frames)


def test_a_run_without_averages_is_refused(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointFault, match="no averaged weights"):
        sample(framed_store, runs["poseinj"], tmp_path / "out", vae_spec="tiny", ema=True)


def test_an_export_takes_the_averages_if_asked(
    framed_store: Store, tiny_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = tiny_experiment("multiexocon", "ema_decay=0.9")
    train("multiexocon", framed_store, tmp_path / "run", experiment, wan_spec="tiny")
    averages = read_weights(find_checkpoint(tmp_path / "run"), ema=True)
    trained = read_trained(tmp_path / "run", ema=True)
    assert all(torch.equal(value, averages[name]) for name, value in trained.other.items())
    for module, lora in trained.lora.items():
        assert torch.equal(lora.up, averages[f"wan.{module}.lora_B.{ADAPTER}.weight"])
    report = export(tmp_path / "run", tmp_path / "out", form="peft", ema=True)
    plain = export(tmp_path / "run", tmp_path / "plain", form="peft")
    assert report.files[0].read_bytes() != plain.files[0].read_bytes()
