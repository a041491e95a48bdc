"""Merged exports: a folder that is diffusers' own, and gives the run's velocities."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import nn

from exo2ego.model.wan import load_wan
from exo2ego.training.checkpoint import CheckpointFault, find_checkpoint, read_weights
from exo2ego.training.experiment import Experiment
from exo2ego.training.export import export
from exo2ego.training.export.merged import load_merged
from exo2ego.training.export.trained import read_trained
from exo2ego.training.stages import STAGES, given_of, load_model
from stores.reading import Store
from stores.stream import ClipStream


def model_of(run: Path) -> nn.Module:
    return load_model(find_checkpoint(run), wan_spec=None, device="cpu")


def from_pretrained(folder: Path, dtype: torch.dtype = torch.float32) -> WanTransformer3DModel:
    return WanTransformer3DModel.from_pretrained(
        folder, subfolder="transformer_2", torch_dtype=dtype
    )


@pytest.mark.parametrize("stage", ["multiexocon", "poseinj"])
def test_a_merged_folder_gives_the_velocities_of_the_run(
    stage: str,
    scaled_run: Path,
    deep_run: Path,
    framed_store: Store,
    tiny_experiment: Callable[..., Experiment],
    tmp_path: Path,
):
    run, experiment = (
        {"multiexocon": scaled_run, "poseinj": deep_run}[stage],
        tiny_experiment(stage),
    )
    export(run, tmp_path / "out", form="merged")
    reads = STAGES[stage].reads(experiment)
    batch = ClipStream(framed_store, reads, batch_size=2, seed=0).batch_at(0)
    noisy = torch.randn(batch["ego_latents"].shape, generator=torch.Generator().manual_seed(3))
    inputs = noisy, torch.tensor([0.3, 0.8]), given_of(batch, experiment)
    with torch.no_grad():
        ours, merged = model_of(run)(*inputs), load_merged(tmp_path / "out")(*inputs)
    torch.testing.assert_close(merged, ours, atol=1e-5, rtol=1e-5)


def test_a_merged_transformer_is_diffusers_own_with_its_text_projection(
    scaled_run: Path, tmp_path: Path
):
    export(scaled_run, tmp_path / "out", form="merged")
    wan, model = from_pretrained(tmp_path / "out"), model_of(scaled_run)
    cross = "blocks.1.attn2.to_v.weight"
    trained = read_weights(find_checkpoint(scaled_run))[f"wan.{cross}"]
    assert torch.equal(wan.get_parameter(cross), trained)
    model.get_submodule("wan").fuse_lora()
    fused = model.get_parameter("wan.blocks.0.attn1.to_k.base_layer.weight")
    torch.testing.assert_close(wan.get_parameter("blocks.0.attn1.to_k.weight"), fused)
    latents, text = torch.randn(2, 36, 3, 4, 6), torch.randn(2, 7, 32)
    with torch.no_grad():
        (velocity,) = wan(latents, torch.tensor([300.0, 800.0]), text, return_dict=False)
    assert velocity.isfinite().all()


def test_merged_in_bf16_is_the_sum_rounded_once(scaled_run: Path, tmp_path: Path):
    export(scaled_run, tmp_path / "out", form="merged", dtype="bf16")
    wan = from_pretrained(tmp_path / "out", torch.bfloat16)
    lora = read_trained(scaled_run).lora["blocks.0.attn1.to_q"]
    base = load_wan("tiny", dtype=torch.bfloat16).get_parameter("blocks.0.attn1.to_q.weight")
    expected = (base.float() + 2.5 * lora.up @ lora.down).bfloat16()
    assert torch.equal(wan.get_parameter("blocks.0.attn1.to_q.weight"), expected)
    assert wan.get_parameter("blocks.0.norm2.weight").dtype == torch.float32


def test_another_wan_is_not_merged_into(
    scaled_run: Path, save_wan: Callable[..., Path], tmp_path: Path
):
    other = save_wan(tmp_path / "other", change=1.0)
    with pytest.raises(CheckpointFault, match="another Wan"):
        export(scaled_run, tmp_path / "out", form="merged", wan_spec=str(other))


def test_the_same_wan_in_another_folder_is_merged_into(
    scaled_run: Path, save_wan: Callable[..., Path], tmp_path: Path
):
    same = save_wan(tmp_path / "same")
    export(scaled_run, tmp_path / "by-folder", form="merged", wan_spec=str(same))
    export(scaled_run, tmp_path / "by-run", form="merged")
    pairs = zip(
        from_pretrained(tmp_path / "by-folder").parameters(),
        from_pretrained(tmp_path / "by-run").parameters(),
        strict=True,
    )
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_folder_that_is_not_whole_is_no_export(scaled_run: Path, tmp_path: Path):
    out = tmp_path / "out"
    export(scaled_run, out, form="merged")
    (out / "exo2ego.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointFault, match="not a whole one"):
        load_merged(out)
    (out / "exo2ego.json").unlink()
    with pytest.raises(CheckpointFault, match="not a whole one"):
        load_merged(out)
