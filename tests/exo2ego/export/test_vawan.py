"""Exports of the baseline: a merged Wan, with what lies beside it, gives its velocities."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from exo2ego.training.checkpoint import find_checkpoint
from exo2ego.training.experiment import Experiment
from exo2ego.training.export import export
from exo2ego.training.export.merged import load_merged
from exo2ego.training.export.written import ExportFault
from exo2ego.training.stages import STAGES, given_of, load_model
from exo2ego.training.trainer import train
from stores.reading import Store
from stores.stream import ClipStream

FAST = ["optimiser.lr=0.03", "optimiser.warmup_steps=0"]


@pytest.mark.parametrize("training", ["lora", "whole"])
def test_a_merged_baseline_gives_the_velocities_of_the_run(
    training: str,
    framed_store: Store,
    tiny_experiment: Callable[..., Experiment],
    tmp_path: Path,
):
    experiment = tiny_experiment("vawan", f"vawan.training={training}", *FAST)
    train("vawan", framed_store, tmp_path / "run", experiment, wan_spec="tiny")
    export(tmp_path / "run", tmp_path / "out", form="merged")
    reads = STAGES["vawan"].reads(experiment)
    batch = ClipStream(framed_store, reads, batch_size=2, seed=0).batch_at(0)
    noisy = torch.randn(batch["ego_latents"].shape, generator=torch.Generator().manual_seed(3))
    inputs = noisy, torch.tensor([0.3, 0.8]), given_of(batch, experiment)
    ours = load_model(find_checkpoint(tmp_path / "run"), wan_spec=None, device="cpu")
    with torch.no_grad():
        expected, merged = ours(*inputs), load_merged(tmp_path / "out")(*inputs)
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-5)
    if training == "lora":
        assert export(tmp_path / "run", tmp_path / "lora", form="peft").lora_modules == 8
    else:
        with pytest.raises(ExportFault, match="no LoRA"):
            export(tmp_path / "run", tmp_path / "lora", form="peft")
