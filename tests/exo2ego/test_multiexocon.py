"""Exo tokens: their order, their start, and taking them away."""

import pytest
import torch
from torch.testing import assert_close

from exo2ego.model.multiexocon import ExoTokens
from exo2ego.model.wan import load_wan

SHAPE = B, V, C, T, H, W = 2, 4, 16, 3, 4, 10


@pytest.fixture(scope="module")
def patch_embedding() -> torch.nn.Conv3d:
    """The small Wan's own."""
    return load_wan("tiny").patch_embedding


PLACES = torch.arange(V).expand(B, V)


@pytest.fixture(scope="module")
def exo_latents() -> torch.Tensor:
    """Four views of two clips."""
    return torch.randn(*SHAPE, generator=torch.Generator().manual_seed(6))


def test_tokens_start_as_wans_embedding_of_noisy_latents(patch_embedding, exo_latents):
    tokens = ExoTokens(patch_embedding)(exo_latents, PLACES)
    padded = torch.cat([exo_latents[1, 2], torch.zeros(20, T, H, W)])[None]
    expected = patch_embedding(padded)[0].flatten(1).T
    n = T * H // 2 * W // 2
    assert_close(tokens[1, 2 * n : 3 * n], expected)


def test_one_cell_reaches_one_token_in_order_view_time_row_column(patch_embedding, exo_latents):
    exo_tokens = ExoTokens(patch_embedding)
    moved = exo_latents.clone()
    moved[1, 3, 5, 2, 1, 7] += 1
    changed = (exo_tokens(moved, PLACES) != exo_tokens(exo_latents, PLACES)).any(dim=-1)
    index = ((3 * T + 2) * (H // 2) + 1 // 2) * (W // 2) + 7 // 2
    assert changed.nonzero().tolist() == [[1, index]]


def test_tokens_of_a_dropped_sample_are_zero_and_others_stay(patch_embedding, exo_latents):
    exo_tokens = ExoTokens(patch_embedding)
    tokens = exo_tokens(exo_latents, PLACES, torch.tensor([False, True]))
    assert not tokens[0].any()
    assert torch.equal(tokens[1], exo_tokens(exo_latents, PLACES)[1])


def test_half_precision_latents_as_stored_are_taken(patch_embedding, exo_latents):
    exo_tokens = ExoTokens(patch_embedding)
    half = exo_latents.half()
    assert torch.equal(exo_tokens(half, PLACES), exo_tokens(half.float(), PLACES))


def test_it_trains_apart_from_wans_embedding(patch_embedding):
    exo_tokens = ExoTokens(patch_embedding)
    before = patch_embedding.weight.clone()
    with torch.no_grad():
        exo_tokens.embed.weight += 1
    assert torch.equal(patch_embedding.weight, before)
