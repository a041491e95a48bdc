"""Parts that EgoExo-Align's transformers share: cosine attention, and a gated feed-forward."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

COSINE_SCALE = 8.0
"""Fixed factor of the cosines before the softmax, as in GenieRedux."""
GEGLU_SHARE = 2 / 3
"""Keeps a gated layer's parameters at those of an ungated one of the same multiplier."""


class CosineAttention(nn.Module):
    """Attention by scaled cosines: queries and keys are unit vectors times learned scales."""

    def __init__(self, width: int, heads: int, head_width: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, bias=False)
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head_width))
        self.k_scale = nn.Parameter(torch.ones(head_width))

    def forward(
        self, rows: Float[Tensor, "rows n d"], bias: Float[Tensor, "heads n n"] | None
    ) -> Float[Tensor, "rows n d"]:
        """What each token gathers from its row; `bias` is added to the logits."""
        normed = self.norm(rows)
        gathered = self.gather(normed, normed, bias)
        return self.to_out(rearrange(gathered, "rows heads n d -> rows n (heads d)"))

    def gather(
        self,
        asking: Float[Tensor, "rows n d"],
        asked: Float[Tensor, "rows m d"],
        bias: Float[Tensor, "heads n m"] | None,
    ) -> Float[Tensor, "rows heads n head_width"]:
        """What the first tokens gather from the second, both normed already, by head."""
        q = rearrange(self.to_q(asking), "rows n (heads d) -> rows heads n d", heads=self.heads)
        k, v = rearrange(
            self.to_kv(asked), "rows m (kv heads d) -> kv rows heads m d", kv=2, heads=self.heads
        )
        q = functional.normalize(q, dim=-1) * self.q_scale
        k = functional.normalize(k, dim=-1) * self.k_scale
        return functional.scaled_dot_product_attention(
            q.to(v.dtype),
            k.to(v.dtype),
            v,
            attn_mask=None if bias is None else bias.to(v.dtype),
            scale=COSINE_SCALE,
        )


class GatedGelu(nn.Module):
    """The first half of the channels times the GELU of the second."""

    def forward(self, joined: Float[Tensor, "*rows d2"]) -> Float[Tensor, "*rows d"]:
        """Half as many channels as came in."""
        values, gate = joined.chunk(2, dim=-1)
        return values * functional.gelu(gate)


def feed_forward(width: int, multiplier: float) -> nn.Sequential:
    """GenieRedux's gated feed-forward, with its norm."""
    inner = int(multiplier * GEGLU_SHARE * width)
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 2 * inner, bias=False),
        GatedGelu(),
        nn.Linear(inner, width, bias=False),
    )
