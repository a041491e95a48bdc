"""Names of Wan's parts in the original repository, which ComfyUI takes over, and in diffusers."""

IN_BLOCK = {
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
    "modulation": "scale_shift_table",
    "norm1": "norm1",
    "norm2": "norm3",  # the two repositories number the norms otherwise
    "norm3": "norm2",
}
"""Original to diffusers, inside a block."""
OUTSIDE = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
"""Original to diffusers, of everything else."""
_BLOCKS = "blocks"


def diffusers_name(original: str) -> str:
    """Diffusers' name of a part, or of a tensor in it, of the original. Inverse of `original_name`.

    Raises KeyError for a name that no part has.
    """
    return _renamed(original, IN_BLOCK, OUTSIDE)


def original_name(diffusers: str) -> str:
    """The original's name of a part, or of a tensor in it, of diffusers.

    Raises KeyError for a name that no part has.
    """
    return _renamed(diffusers, _inverse(IN_BLOCK), _inverse(OUTSIDE))


def _renamed(name: str, in_block: dict[str, str], outside: dict[str, str]) -> str:
    first, _, rest = name.partition(".")
    if first != _BLOCKS:
        return _with_new_start(name, outside)
    number, _, part = rest.partition(".")
    return f"{_BLOCKS}.{number}.{_with_new_start(part, in_block)}"


def _with_new_start(name: str, starts: dict[str, str]) -> str:
    """The name with its beginning, up to a dot or the end, exchanged."""
    for start, other in starts.items():
        if name == start or name.startswith(f"{start}."):
            return other + name.removeprefix(start)
    raise KeyError(name)


def _inverse(names: dict[str, str]) -> dict[str, str]:
    return {new: old for old, new in names.items()}
