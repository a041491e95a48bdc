"""STTransformer: its size, its attention, its position bias, and what the views are to it."""

import pytest
import torch
from torch.testing import assert_close

from exo2ego.model.align import STTransformer, STTransformerSettings, build_align
from exo2ego.model.align.attention import CosineAttention, GatedGelu
from exo2ego.model.align.prediction import AlignGiven
from exo2ego.model.align.st_transformer import Block, PositionBias

SMALL = STTransformerSettings(width=20, blocks=2, heads=2, head_width=6)


def rng(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def views(v: int = 4, h: int = 4, w: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """First latents and rays of two clips."""
    return torch.randn(2, v, 16, h, w, generator=rng(1)), torch.randn(
        2, v, 6, h, w, generator=rng(2)
    )


def test_the_papers_size_has_the_papers_count():
    with torch.device("meta"):
        model = STTransformer(STTransformerSettings())
    trunk = [p for name, p in model.named_parameters() if name.startswith(("blocks.", "norm_out."))]
    # GenieRedux counts one more norm per attention, which self-attention never uses.
    unused = 8 * 2 * 512
    assert sum(p.numel() for p in trunk) + unused == 50_588_160
    assert sum(p.numel() for p in model.position_bias.parameters()) == 268_296


@pytest.mark.parametrize("v", [1, 2, 4, 5])
@pytest.mark.parametrize("patch", [1, 2])
def test_any_number_of_views_gives_one_frame(v, patch):
    model = build_align(SMALL.model_copy(update={"patch": patch}), rng())
    prediction = model(AlignGiven(*views(v)))
    assert prediction.latent.shape == (2, 16, 4, 6)
    assert prediction.rays.shape == (2, 6, 4, 6)


def test_views_are_not_causal():
    model = Block(SMALL)
    tokens, bias = torch.randn(1, 4, 2, 3, 20, generator=rng()), torch.zeros(2, 6, 6)
    before = model(tokens, bias)
    for view in (0, 3):
        moved = tokens.clone()
        moved[:, view] += torch.randn(20, generator=rng(4))
        changed = (model(moved, bias) != before).flatten(2).any(dim=-1)
        assert changed.all()


def test_attention_is_the_softmax_of_eight_scaled_cosines_plus_bias():
    attention = CosineAttention(20, 2, 6)
    for parameter in attention.parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng(3))
    rows, bias = torch.randn(3, 5, 20, generator=rng(4)), torch.randn(2, 5, 5, generator=rng(5))
    centred = rows - rows.mean(-1, keepdim=True)
    normed = centred / (rows.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normed = normed * attention.norm.weight
    q = (normed @ attention.to_q.weight.T).reshape(3, 5, 2, 6)
    k, v = (normed @ attention.to_kv.weight.T).reshape(3, 5, 2, 2, 6).unbind(2)
    q = q / q.norm(dim=-1, keepdim=True) * attention.q_scale
    k = k / k.norm(dim=-1, keepdim=True) * attention.k_scale
    weights = (8 * torch.einsum("bihd,bjhd->bhij", q, k) + bias).softmax(-1)
    expected = torch.einsum("bhij,bjhd->bihd", weights, v).reshape(3, 5, 12)
    assert_close(attention(rows, bias), expected @ attention.to_out.weight.T)


def test_position_bias_is_the_net_of_the_signed_log_offset():
    position_bias, (h, w) = PositionBias(20, 3), (3, 5)
    bias = position_bias(h, w)
    for query, key in ((0, 14), (7, 7), (11, 3)):
        offset = torch.tensor([query // w - key // w, query % w - key % w]).float()
        expected = position_bias.net(offset.sign() * (offset.abs() + 1).log())
        assert_close(bias[:, query, key], expected)


def test_the_second_half_of_the_channels_gates_the_first():
    joined = torch.tensor([[3.0, 5.0, 0.0, 100.0]])
    assert torch.equal(GatedGelu()(joined), torch.tensor([[0.0, 500.0]]))


def test_a_block_attends_over_cells_before_views():
    block, order = Block(SMALL), []
    for name in ("space.neighbours", "space.attention", "space.feed_forward"):
        for half in (name, name.replace("space", "views")):
            block.get_submodule(half).register_forward_hook(
                lambda *_, half=half: order.append(half)
            )
    block(torch.zeros(1, 4, 2, 3, 20), torch.zeros(2, 6, 6))
    parts = ("neighbours", "attention", "feed_forward")
    assert order == [f"{half}.{part}" for half in ("space", "views") for part in parts]
