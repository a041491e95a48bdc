"""LoRA files: diffusers' own readers give the run's LoRA back, and nothing is lost on the way."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline
from safetensors.torch import load_file
from torch import Tensor, nn

from exo2ego.model.wan import load_wan
from exo2ego.training.build import Origin, put_weights
from exo2ego.training.checkpoint import find_checkpoint, read_state, read_weights
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.export import export
from exo2ego.training.export.comfyui_keys import write_comfyui
from exo2ego.training.export.trained import read_trained
from exo2ego.training.export.written import OTHER, ExportFault, Wish
from exo2ego.training.stages import STAGES, load_model

CONVERSION = {  # written here a second time, after diffusers' conversion script
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
}


@torch.no_grad()
def output(wan: nn.Module) -> Tensor:
    """What a Wan gives for the same latents and tokens every time."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 36, 3, 4, 6, generator=generator)
    tokens = torch.randn(2, 7, 48, generator=generator)
    return wan(latents, torch.tensor([300.0, 800.0]), tokens, return_dict=False)[0]


def wan_with_lora_alone(run: Path) -> nn.Module:
    """The Wan of our own model with the run's LoRA, and nothing else of it."""
    state = read_state(find_checkpoint(run))
    experiment = parse_experiment(state.experiment, where=run)
    model = STAGES[state.stage].build(Origin(experiment, "tiny", None, "cpu")).model
    weights = read_weights(find_checkpoint(run))
    put_weights(model, {name: of for name, of in weights.items() if ".lora_" in name}, run)
    return model.get_submodule("wan")


def test_diffusers_own_loader_gives_the_output_of_our_model_with_that_lora(
    scaled_run: Path, tmp_path: Path
):
    export(scaled_run, tmp_path / "out", form="peft")
    wan = load_wan("tiny")
    before = output(wan)
    wan.load_lora_adapter(tmp_path / "out", use_safetensors=True)
    expected = output(wan_with_lora_alone(scaled_run))
    torch.testing.assert_close(output(wan), expected, atol=1e-6, rtol=0)
    assert (expected - before).abs().max() > 1e-3


def test_a_later_stage_exports_its_own_lora_with_its_parents_alpha(deep_run: Path, tmp_path: Path):
    export(deep_run, tmp_path / "out", form="peft")
    wan = load_wan("tiny")
    wan.load_lora_adapter(tmp_path / "out", use_safetensors=True)
    model = load_model(find_checkpoint(deep_run), wan_spec=None, device="cpu")
    ours = model.get_submodule("wan.blocks.1.attn1.to_v")
    tokens = torch.randn(3, 48, generator=torch.Generator().manual_seed(1))
    theirs = wan.get_submodule("blocks.1.attn1.to_v")(tokens)
    torch.testing.assert_close(theirs, ours(tokens), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("form", "name"), [("peft", "folder"), ("peft", "a.safetensors"), ("comfyui", "a.safetensors")]
)
def test_a_pipeline_loads_either_form_into_its_low_noise_expert(
    form: str, name: str, scaled_run: Path, tmp_path: Path
):
    exported = tmp_path / name
    export(scaled_run, exported, form=form)
    high, low = load_wan("tiny"), load_wan("tiny")
    untouched = output(high)
    absent = dict.fromkeys(("tokenizer", "text_encoder", "vae"))
    pipeline = WanImageToVideoPipeline(
        **absent, scheduler=UniPCMultistepScheduler(), transformer=high, transformer_2=low
    )
    pipeline.load_lora_weights(exported, load_into_transformer_2=True)
    expected = output(wan_with_lora_alone(scaled_run))
    torch.testing.assert_close(output(low), expected, atol=1e-6, rtol=0)
    assert torch.equal(output(high), untouched)


def test_comfyuis_keys_mapped_back_are_the_same_tensors(scaled_run: Path, tmp_path: Path):
    file = tmp_path / "lora.safetensors"
    export(scaled_run, file, form="comfyui")
    found, weights = load_file(file), read_weights(find_checkpoint(scaled_run))
    expected = {}
    for block in range(2):
        for theirs, ours in CONVERSION.items():
            start, name = f"diffusion_model.blocks.{block}.{theirs}", f"wan.blocks.{block}.{ours}"
            expected[f"{start}.lora_down.weight"] = weights[f"{name}.lora_A.default.weight"]
            expected[f"{start}.lora_up.weight"] = weights[f"{name}.lora_B.default.weight"]
            expected[f"{start}.alpha"] = torch.tensor(5.0)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_module_that_the_original_does_not_know_is_refused_before_anything_is_written(
    scaled_run: Path, tmp_path: Path
):
    trained = read_trained(scaled_run)
    strange = replace(trained, lora={"side.to_q": next(iter(trained.lora.values()))})
    with pytest.raises(ExportFault, match="no name for a part"):
        write_comfyui(strange, Wish(tmp_path / "out", None, None))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["peft", "comfyui"])
def test_lora_and_the_file_beside_it_are_all_that_was_trained(
    form: str, deep_run: Path, scaled_run: Path, tmp_path: Path
):
    report = export(deep_run, tmp_path, form=form)
    first, second = (read_weights(find_checkpoint(run)) for run in (scaled_run, deep_run))
    expected = {name: of for name, of in (first | second).items() if ".lora_" not in name}
    beside = load_file(tmp_path / OTHER)
    assert beside.keys() == expected.keys()
    assert all(torch.equal(beside[name], expected[name]) for name in expected)
    assert any(".attn2." in name for name in expected)
    assert any("patch_embedding" in name for name in expected)
    assert (report.lora_modules, report.other_tensors) == (8, len(expected))


@pytest.mark.parametrize("form", ["peft", "comfyui"])
def test_bf16_is_the_same_rounded(form: str, scaled_run: Path, tmp_path: Path):
    export(scaled_run, tmp_path / "half.safetensors", form=form, dtype="bf16")
    export(scaled_run, tmp_path / "whole.safetensors", form=form)
    for ending in ("safetensors", OTHER):
        half, whole = (load_file(tmp_path / f"{name}.{ending}") for name in ("half", "whole"))
        assert half.keys() == whole.keys()
        for name in (name for name in whole if not name.endswith(".alpha")):
            assert torch.equal(half[name], whole[name].bfloat16())
