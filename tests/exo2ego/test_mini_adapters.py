"""Adapters as the package ships them: checkpoints of half the bytes, from which all goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.mini.adapters import write_adapter
from exo2ego.evaluation.sample import sample
from exo2ego.model.flow import SamplerSettings
from exo2ego.training.checkpoint import find_checkpoint, read_state, read_weights
from exo2ego.training.experiment import Experiment
from exo2ego.training.first_frame_sources import Predicted
from exo2ego.training.first_frames import encode_first_frames
from exo2ego.training.trainer import train
from stores.reading import Store


@pytest.fixture
def shipped(
    own_store: Store,
    align_run: Path,
    tiny_experiment: Callable[..., Experiment],
    tmp_path: Path,
) -> tuple[Store, dict[str, Path]]:
    """Three stages, each trained on what is shipped of the one before; and their store."""
    align = write_adapter(align_run, tmp_path / "shipped" / "align")
    encode_first_frames(own_store, Predicted(align), vae_spec="tiny")
    out: dict[str, Path] = {"align": align}
    for stage, parent in (("multiexocon", None), ("poseinj", "multiexocon")):
        train(
            stage,
            own_store,
            tmp_path / stage,
            tiny_experiment(stage),
            wan_spec=None if parent else "tiny",
            parent=out[parent] if parent else None,
        )
        told = out[parent] if parent else None
        out[stage] = write_adapter(tmp_path / stage, tmp_path / "shipped" / stage, told)
    return own_store, out


def test_an_adapter_is_the_runs_weights_rounded(
    shipped: tuple[Store, dict[str, Path]], tmp_path: Path
):
    folder, run = shipped[1]["multiexocon"], find_checkpoint(tmp_path / "multiexocon")
    kept, whole = read_weights(folder), read_weights(run)
    assert {name: value.dtype for name, value in kept.items()} == dict.fromkeys(
        whole, torch.float16
    )
    for name, value in whole.items():
        assert torch.equal(kept[name], value.half())
    assert sorted(path.name for path in folder.iterdir()) == ["state.json", "weights.safetensors"]
    assert read_state(folder).experiment_digest == read_state(run).experiment_digest


def test_the_last_stages_adapter_is_sampled_with_its_parents(
    shipped: tuple[Store, dict[str, Path]], tmp_path: Path
):
    store, folders = shipped
    report = sample(
        store,
        folders["poseinj"],
        tmp_path / "samples",
        vae_spec="tiny",
        sampler=SamplerSettings(steps=2),
    )
    assert report.clips_new == report.clips > 0


def test_a_run_begins_with_an_adapter_of_its_stage(
    shipped: tuple[Store, dict[str, Path]],
    tiny_experiment: Callable[..., Experiment],
    tmp_path: Path,
):
    store, folders = shipped
    out = tmp_path / "more"
    train(
        "multiexocon",
        store,
        out,
        tiny_experiment("multiexocon"),
        wan_spec="tiny",
        begin_with=folders["multiexocon"],
    )
    began = read_state(find_checkpoint(out)).began_with
    assert began == read_state(folders["multiexocon"]).weights_digest


def test_another_parent_than_the_runs_is_refused(
    shipped: tuple[Store, dict[str, Path]], tmp_path: Path
):
    with pytest.raises(ValueError, match="not from"):
        write_adapter(tmp_path / "poseinj", tmp_path / "other", shipped[1]["align"])
    with pytest.raises(ValueError, match="not from"):
        write_adapter(tmp_path / "poseinj", tmp_path / "other")
