"""Exo keys and values of every block, computed once for all steps of sampling.

Exo tokens do not change from step to step, so neither do the keys and values of cross-attention:
they are 3,072 tokens where the ego video has 768, and most of a step's matrix products.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


class KnownKeysValues:
    """Attention processor of one block's cross-attention, with the keys and values of its tokens.

    Queries come for the clips, and once more for the same clips without their exo videos if there
    is a `null` token. Attention over one token is that token's value, whatever the query is.
    """

    _parallel_config = None

    def __init__(
        self,
        attention: Any,
        tokens: Float[Tensor, "b n d"],
        null: Float[Tensor, "1 1 d"] | None,
    ):
        self._attention_backend = attention.processor._attention_backend
        self._keys = _heads(attention, attention.norm_k(attention.to_k(tokens)))
        self._values = _heads(attention, attention.to_v(tokens))
        self._null = None if null is None else attention.to_v(null)

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "b2 n d"],
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Tensor | None = None,
    ) -> Float[Tensor, "b2 n d"]:
        """What attn2 gives for the tokens that it was made with; those that come are not read."""
        clips = len(self._keys)
        query = _heads(attn, attn.norm_q(attn.to_q(hidden_states[:clips])))
        gathered = dispatch_attention_fn(
            query, self._keys, self._values, backend=self._attention_backend
        )
        told = rearrange(gathered, "b n heads d -> b n (heads d)").type_as(query)
        if self._null is not None:
            told = torch.cat([told, self._null.expand_as(told)])
        projected, dropout = attn.to_out
        return dropout(projected(told))


@contextmanager
def known_exo(
    wan: WanTransformer3DModel,
    tokens: Float[Tensor, "b n d"],
    null: Float[Tensor, "1 1 d"] | None,
) -> Iterator[None]:
    """Within it, Wan attends to these tokens whatever it is given, and computes them once.

    With `null`, Wan takes the clips twice: first with their tokens, then with this one alone.
    """
    attentions: list[Any] = [block.get_submodule("attn2") for block in wan.blocks]
    before: list[Any] = [attention.processor for attention in attentions]
    try:
        for attention in attentions:
            attention.processor = KnownKeysValues(attention, tokens, null)
        yield
    finally:
        for attention, processor in zip(attentions, before, strict=True):
            attention.processor = processor


def _heads(attention: Any, projected: Tensor) -> Float[Tensor, "b n heads d"]:
    return rearrange(projected, "b n (heads d) -> b n heads d", heads=attention.heads)
