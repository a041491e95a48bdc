"""Names of Wan's parts in two repositories: one to one, and those that diffusers itself maps."""

import pytest
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from exo2ego.model.wan_names import diffusers_name, original_name

PAIRS = {  # as read in diffusers' conversion script
    "patch_embedding.weight": "patch_embedding.weight",
    "text_embedding.0.weight": "condition_embedder.text_embedder.linear_1.weight",
    "text_embedding.2.bias": "condition_embedder.text_embedder.linear_2.bias",
    "time_embedding.0.bias": "condition_embedder.time_embedder.linear_1.bias",
    "time_projection.1.weight": "condition_embedder.time_proj.weight",
    "head.head.weight": "proj_out.weight",
    "head.modulation": "scale_shift_table",
    "blocks.7.modulation": "blocks.7.scale_shift_table",
    "blocks.0.self_attn.q.weight": "blocks.0.attn1.to_q.weight",
    "blocks.31.self_attn.o.bias": "blocks.31.attn1.to_out.0.bias",
    "blocks.2.self_attn.norm_k.weight": "blocks.2.attn1.norm_k.weight",
    "blocks.2.cross_attn.norm_q.weight": "blocks.2.attn2.norm_q.weight",
    "blocks.2.cross_attn.v.weight": "blocks.2.attn2.to_v.weight",
    "blocks.2.ffn.0.weight": "blocks.2.ffn.net.0.proj.weight",
    "blocks.2.ffn.2.bias": "blocks.2.ffn.net.2.bias",
    "blocks.2.norm3.weight": "blocks.2.norm2.weight",
}


@pytest.fixture(scope="module")
def names() -> list[str]:
    """Every tensor of a transformer of Wan2.2's shape, two blocks deep."""
    with_text = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=8, ffn_dim=16, num_layers=2
    )
    return list(with_text.state_dict())


def test_names_are_those_of_the_conversion_script():
    assert {original: diffusers_name(original) for original in PAIRS} == PAIRS


def test_every_tensor_has_one_original_name_that_leads_back(names: list[str]):
    originals = [original_name(name) for name in names]
    assert len(set(originals)) == len(names)
    assert [diffusers_name(original) for original in originals] == names


def test_a_module_is_named_like_its_tensors():
    assert original_name("blocks.3.attn1.to_out.0") == "blocks.3.self_attn.o"
    assert diffusers_name("head.head") == "proj_out"


@pytest.mark.parametrize("name", ["head", "blocks.1.attn3.to_q", "self_attn.q", "projected"])
def test_what_no_part_is_called_has_no_name(name: str):
    assert original_name(name) is None
    assert diffusers_name(name) is None
