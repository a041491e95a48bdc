"""Names of Wan's parameters: as its authors published them, and as diffusers has them."""

import re

_BLOCK = re.compile(r"^blocks\.(\d+)\.(.+)$")
_IN_BLOCK = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "norm3": "norm2",  # the one before cross-attention: diffusers counts in the order of use
    "modulation": "scale_shift_table",
}
_AT_TOP = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
_ENDINGS = (".weight", ".bias")


def diffusers_name(original: str) -> str | None:
    """diffusers' name of a parameter that the authors call so; None if it has none."""
    return _translated(original, _IN_BLOCK, _AT_TOP)


def original_name(diffusers: str) -> str | None:
    """The authors' name of a parameter that diffusers calls so; None if they have none."""
    return _translated(
        diffusers,
        {there: here for here, there in _IN_BLOCK.items()},
        {there: here for here, there in _AT_TOP.items()},
    )


def _translated(name: str, in_block: dict[str, str], at_top: dict[str, str]) -> str | None:
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), "")
    found = _BLOCK.match(name.removesuffix(ending))
    if found:
        inner = in_block.get(found[2])
        return f"blocks.{found[1]}.{inner}{ending}" if inner else None
    top = at_top.get(name.removesuffix(ending))
    return f"{top}{ending}" if top else None
