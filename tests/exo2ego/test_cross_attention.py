"""Cross-Attn: attention view by view and over the views by hand, and places of cells."""

import math

import torch
from torch.testing import assert_close

from exo2ego.model.align import CrossAttentionSettings, build_align
from exo2ego.model.align.cross_attention import OCTAVES, ViewsAttention, place_waves
from exo2ego.model.align.prediction import AlignGiven

CPU = torch.device("cpu")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed))


def test_views_attention_is_a_softmax_over_cells_and_then_over_views():
    b, v, n, m, heads, d = 2, 3, 5, 4, 2, 6
    attention = ViewsAttention(20, heads, d)
    for seed, parameter in enumerate(attention.parameters()):
        parameter.data = draw(seed, *parameter.shape)
    asking, tokens = draw(10, b, v, n, 20), draw(11, b, v, m, 20)
    inner = attention.attention
    for clip in range(b):
        for query in range(n):
            found = torch.zeros(v, heads, d)
            for view in range(v):
                q = inner.to_q(inner.norm(asking[clip, view, query])).reshape(heads, d)
                kv = inner.to_kv(attention.norm_tokens(tokens[clip, view])).reshape(m, 2, heads, d)
                for head in range(heads):
                    unit_q = q[head] / q[head].norm() * inner.q_scale
                    k = kv[:, 0, head]
                    unit_k = k / k.norm(dim=-1, keepdim=True) * inner.k_scale
                    found[view, head] = (8 * unit_k @ unit_q).softmax(0) @ kv[:, 1, head]
            weights = (found @ attention.weigh.weight[0]).softmax(dim=0)
            expected = inner.to_out((weights[..., None] * found).sum(0).reshape(-1))
            got = attention(asking, tokens)[clip, query]
            assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_a_cells_waves_follow_from_its_place_in_the_picture_alone():
    """The middle of a cell is the middle of the middle one of the nine that it is cut into."""
    coarse, fine = place_waves(2, 5, CPU), place_waves(6, 15, CPU)
    middles = fine.reshape(6, 15, -1)[1::3, 1::3].reshape(10, -1)
    assert_close(coarse, middles, atol=1e-5, rtol=1e-5)


def test_places_of_a_grid_of_16_are_told_apart():
    waves = place_waves(16, 16, CPU)
    assert waves.shape == (256, 4 * OCTAVES)
    apart = torch.cdist(waves, waves) + 10 * torch.eye(256)
    assert apart.min() > 0.5
    first = -1 + 1 / 16  # of the first row's centre
    assert math.isclose(waves[0, 0].item(), math.sin(math.pi / 2 * first), abs_tol=1e-6)


def test_a_views_rays_tell_where_to_look_in_that_view():
    """Rays of a view change what is gathered from it; those of an empty view change nothing."""
    settings = CrossAttentionSettings(
        name="cross_attention", width=20, blocks=1, heads=2, head_width=6
    )
    model, latents = build_align(settings, rng()), draw(1, 1, 2, 16, 4, 6)
    rays, moved = draw(2, 1, 2, 6, 4, 6), draw(2, 1, 2, 6, 4, 6)
    moved[:, 1] += 1
    before = model(AlignGiven(latents, rays)).latent
    assert not torch.allclose(model(AlignGiven(latents, moved)).latent, before, atol=1e-6)
    alike = model.embed_place
    torch.nn.init.zeros_(alike.weight)
    latents[:, 1] = 0.3  # all its tokens are the same: wherever one looks
    before = model(AlignGiven(latents, rays)).latent
    assert_close(model(AlignGiven(latents, moved)).latent, before)
