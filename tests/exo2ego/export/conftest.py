"""Runs of both stages of the generator whose weights are away from their start, for exports."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from exo2ego.model.wan import load_with_text
from exo2ego.training.experiment import Experiment
from exo2ego.training.trainer import train
from stores.reading import Store


@pytest.fixture(scope="session")
def scaled_run(
    framed_store: Store,
    tiny_experiment: Callable[..., Experiment],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A multiexocon run whose LoRA is scaled by 2.5, with all that trains away from its start."""
    out = tmp_path_factory.mktemp("scaled") / "run"
    settings = ["lora.rank=2", "lora.alpha=5", "optimiser.lr=0.03", "optimiser.warmup_steps=0"]
    experiment = tiny_experiment("multiexocon", *settings)
    train("multiexocon", framed_store, out, experiment, wan_spec="tiny")
    return out


@pytest.fixture(scope="session")
def deep_run(
    framed_store: Store,
    scaled_run: Path,
    tiny_experiment: Callable[..., Experiment],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A poseinj run on top of that."""
    out = tmp_path_factory.mktemp("deep") / "run"
    experiment = tiny_experiment("poseinj", "optimiser.lr=0.03", "optimiser.warmup_steps=0")
    train("poseinj", framed_store, out, experiment, parent=scaled_run)
    return out


@pytest.fixture(scope="session")
def save_wan() -> Callable[..., Path]:
    """Saves the tiny Wan, or one that differs a little, in diffusers' layout."""

    def save(folder: Path, change: float = 0.0) -> Path:
        wan = load_with_text("tiny", dtype=torch.float32)
        with torch.no_grad():
            wan.proj_out.bias += change
        wan.save_pretrained(folder / "transformer_2")
        return folder

    return save
