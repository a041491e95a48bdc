"""Loading Wan's low-noise expert, what is refused, and the LoRA on its self-attention."""

import json

import pytest
import torch
from diffusers import WanTransformer3DModel

from exo2ego.model.pretrained import WeightsFault
from exo2ego.model.wan import LoraSettings, add_self_attention_lora, load_wan

A14B = {"_class_name": "WanTransformer3DModel", "in_channels": 36, "out_channels": 16}


def run(wan: WanTransformer3DModel) -> torch.Tensor:
    """Output for fixed input."""
    g = torch.Generator().manual_seed(5)
    dtype = wan.proj_out.weight.dtype
    latents = torch.randn(2, 36, 3, 4, 6, generator=g).to(dtype)
    tokens = torch.randn(2, 7, 48, generator=g).to(dtype)
    return wan(latents, torch.tensor([250.5, 999.0]), tokens, return_dict=False)[0]


def rng(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def test_tiny_is_always_the_same_frozen_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    first, second = load_wan("tiny"), load_wan("tiny")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(run(first), run(second))
    assert not any(parameter.requires_grad for parameter in first.parameters())


def test_tokens_reach_the_blocks_as_they_are():
    wan, seen = load_wan("tiny"), []
    wan.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    tokens = torch.randn(1, 5, 48, generator=rng())
    wan(torch.zeros(1, 36, 1, 2, 2), torch.tensor([1.0]), tokens)
    assert torch.equal(seen[0], tokens)


def save_model(folder, wan):
    """A pipeline's folder with both experts, whose low-noise one is `wan`."""
    wan.save_pretrained(folder / "transformer_2")
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps(A14B))


@pytest.fixture
def published(make_wan, tmp_path) -> WanTransformer3DModel:
    """A small Wan saved under tmp_path as the low-noise expert, text projection and all."""
    wan = make_wan(num_layers=1)
    save_model(tmp_path, wan)
    return wan


@pytest.mark.parametrize("inside", ["", "transformer_2"])
def test_the_low_noise_expert_is_loaded(tmp_path, published, inside):
    loaded = load_wan(str(tmp_path / inside))
    published.condition_embedder.text_embedder = torch.nn.Identity()
    assert torch.equal(run(loaded), run(published))


@pytest.mark.parametrize("tiny", [True, False])
def test_norms_time_and_tables_stay_in_float32(tmp_path, published, tiny):
    wan = load_wan("tiny" if tiny else str(tmp_path), dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in wan.named_parameters()}
    assert dtypes["blocks.0.attn2.to_q.weight"] == torch.bfloat16
    for name in (
        "blocks.0.norm2.weight",
        "blocks.0.scale_shift_table",
        "condition_embedder.time_embedder.linear_1.weight",
    ):
        assert dtypes[name] == torch.float32
    assert run(wan).dtype == torch.bfloat16


def test_the_high_noise_expert_is_refused(tmp_path, published):
    with pytest.raises(WeightsFault, match="high-noise expert"):
        load_wan(str(tmp_path / "transformer"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 48, "out_channels": 48}, "TI2V-5B"),
        ({"in_channels": 16}, "text to video"),
        ({"image_dim": 1280}, "Wan2.1-I2V"),
        ({"in_channels": 52}, "an unknown model"),
        ({"_class_name": "OtherModel"}, "another model"),
    ],
)
def test_another_wan_is_refused_before_its_weights_are_read(tmp_path, change, message):
    (tmp_path / "config.json").write_text(json.dumps(A14B | change))
    with pytest.raises(WeightsFault, match=message):
        load_wan(str(tmp_path))


def test_a_folder_that_lacks_tensors_is_refused(tmp_path):
    load_wan("tiny").save_pretrained(tmp_path / "transformer_2")  # without its text projection
    with pytest.raises(WeightsFault, match=r"without condition_embedder\.text_embedder.*4 in all"):
        load_wan(str(tmp_path))


def test_lora_changes_nothing_at_first_and_depends_on_its_generator_alone():
    wan, again, other = load_wan("tiny"), load_wan("tiny"), load_wan("tiny")
    before = run(wan)
    state = torch.get_rng_state()
    add_self_attention_lora(wan, LoraSettings(rank=3, alpha=6), rng(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(run(wan), before)
    torch.manual_seed(99)
    add_self_attention_lora(again, LoraSettings(rank=3, alpha=6), rng(1))
    add_self_attention_lora(other, LoraSettings(rank=3, alpha=6), rng(2))
    name = "blocks.1.attn1.to_v.lora_A.default.weight"
    assert torch.equal(wan.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(wan.get_parameter(name), other.get_parameter(name))


def test_lora_adds_alpha_over_rank_times_b_a():
    wan = load_wan("tiny")
    add_self_attention_lora(wan, LoraSettings(rank=3, alpha=6), rng())
    layer = wan.blocks[0].attn1.to_q
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    up.data.normal_(generator=rng(7))
    x = torch.randn(2, 5, 48, generator=rng(8))
    expected = layer.base_layer(x) + 2 * x @ down.T @ up.T
    torch.testing.assert_close(layer(x), expected)


def test_lora_is_float32_on_a_bfloat16_wan():
    wan = load_wan("tiny", dtype=torch.bfloat16)
    before = run(wan)
    add_self_attention_lora(wan, LoraSettings(rank=3, alpha=3), rng())
    lora = [p for name, p in wan.named_parameters() if ".lora_" in name]
    assert len(lora) == 2 * 4 * 2
    assert all(p.dtype == torch.float32 for p in lora)
    assert torch.equal(run(wan), before)


def test_the_real_size_has_the_papers_counts():
    with torch.device("meta"):
        wan = WanTransformer3DModel(in_channels=36, out_channels=16)
    names = dict(wan.named_parameters())
    assert sum(p.numel() for p in names.values()) == 14_288_901_184
    assert sum(p.numel() for n, p in names.items() if ".attn2." in n) == 4_195_532_800
    add_self_attention_lora(wan, LoraSettings(), rng())
    lora = [p for n, p in wan.named_parameters() if ".lora_" in n]
    assert sum(p.numel() for p in lora) == 209_715_200
