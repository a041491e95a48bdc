"""Adapters as the package ships them: checkpoints of half the bytes, from which all goes on."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from benchmarks.mini.adapters import write_adapter
from exo2ego.evaluation.sample import sample
from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from exo2ego.model.flow import SamplerSettings
from exo2ego.training.checkpoint import find_checkpoint, read_state, read_weights
from exo2ego.training.experiment import Experiment
from exo2ego.training.first_frame_sources import Predicted
from exo2ego.training.first_frames import encode_first_frames
from exo2ego.training.trainer import train
from stores.reading import Store
from stores.zarr_store import open_store


@dataclass(frozen=True)
class Made:
    """Three stages, each trained on what is shipped of the one before; and their store."""

    store: Store
    runs: dict[str, Path]
    shipped: dict[str, Path]


@pytest.fixture(scope="module")
def made(
    store_path: Path,
    align_run: Path,
    tiny_experiment: Callable[..., Experiment],
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    root = tmp_path_factory.mktemp("adapters")
    store = open_store(shutil.copytree(store_path, root / "own.store"), derive=CLIP_CAMERAS)
    align = write_adapter(align_run, root / "shipped" / "align")
    encode_first_frames(store, Predicted(align), vae_spec="tiny")
    found = Made(store, {"align": align_run}, {"align": align})
    for stage, parent_stage in (("multiexocon", None), ("poseinj", "multiexocon")):
        parent = found.shipped[parent_stage] if parent_stage else None
        wan, run, experiment = None if parent else "tiny", root / stage, tiny_experiment(stage)
        train(stage, store, run, experiment, wan_spec=wan, parent=parent)
        found.runs[stage] = run
        found.shipped[stage] = write_adapter(run, root / "shipped" / stage, parent)
    return found


def test_an_adapter_is_the_runs_weights_rounded(made: Made):
    folder, run = made.shipped["multiexocon"], find_checkpoint(made.runs["multiexocon"])
    kept, whole = read_weights(folder), read_weights(run)
    assert {name: value.dtype for name, value in kept.items()} == dict.fromkeys(
        whole, torch.float16
    )
    for name, value in whole.items():
        assert torch.equal(kept[name], value.half())
    assert sorted(path.name for path in folder.iterdir()) == ["state.json", "weights.safetensors"]
    assert read_state(folder).experiment_digest == read_state(run).experiment_digest


def test_the_last_stages_adapter_is_sampled_with_its_parents(made: Made, tmp_path: Path):
    report = sample(
        made.store,
        made.shipped["poseinj"],
        tmp_path / "samples",
        vae_spec="tiny",
        sampler=SamplerSettings(steps=2),
    )
    assert report.clips_new == report.clips > 0


def test_a_run_begins_with_an_adapter_of_its_stage(
    made: Made, tiny_experiment: Callable[..., Experiment], tmp_path: Path
):
    stage, shipped, out = "multiexocon", made.shipped["multiexocon"], tmp_path / "more"
    train(stage, made.store, out, tiny_experiment(stage), wan_spec="tiny", begin_with=shipped)
    began = read_state(find_checkpoint(out)).began_with
    assert began == read_state(shipped).weights_digest


def test_another_parent_than_the_runs_is_refused(made: Made, tmp_path: Path):
    with pytest.raises(ValueError, match="not from"):
        write_adapter(made.runs["poseinj"], tmp_path / "other", made.shipped["align"])
    with pytest.raises(ValueError, match="not from"):
        write_adapter(made.runs["poseinj"], tmp_path / "other")
