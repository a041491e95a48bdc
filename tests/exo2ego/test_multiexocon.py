"""Exo tokens: their order, their start, and taking them away."""

import pytest
import torch
from torch.testing import assert_close

from exo2ego.model.generator import (
    Generator,
    GeneratorSettings,
    build_generator,
    trainable_parameters,
)
from exo2ego.model.given import Given
from exo2ego.model.multiexocon import ExoTokens, MultiExoConSettings
from exo2ego.model.wan import LoraSettings, load_wan
from stores.errors import ShapeFault

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


def build(exo: dict[str, object]) -> Generator:
    """A generator whose trained parameters are not at their start."""
    settings = GeneratorSettings(
        lora=LoraSettings(rank=3, alpha=3), exo=MultiExoConSettings.model_validate(exo)
    )
    g = torch.Generator().manual_seed(0)
    built = build_generator(load_wan("tiny"), settings, "multiexocon", g)
    for parameter in trainable_parameters(built, "multiexocon").values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    return built.requires_grad_(False)


def velocities(generator: Generator, given: Given) -> torch.Tensor:
    noisy = torch.randn(B, C, T, H, W, generator=torch.Generator().manual_seed(8))
    return generator(noisy, torch.tensor([0.3, 0.8]), given)


LEARNED = {"name": "learned", "views": V, "frames": T, "rows": H // 2, "columns": W // 2}


@pytest.mark.parametrize("positions", [{"name": "none"}, LEARNED])
def test_views_may_be_exchanged_if_and_only_if_tokens_have_no_positions(exo_latents, positions):
    generator, order = build({"positions": positions}), [2, 0, 3, 1]
    condition = exo_latents[:, 0]
    plain = velocities(generator, Given(condition, exo_latents))
    turned = velocities(generator, Given(condition, exo_latents[:, order]))
    assert torch.allclose(plain, turned, atol=1e-5) == (positions["name"] == "none")


def test_positions_are_those_of_the_views_places_when_a_view_is_absent(exo_latents):
    generator = build({"positions": LEARNED})
    absent = exo_latents.clone()
    absent[0, 1] = torch.nan
    places = torch.tensor([[0, 2, 3]])
    expected = generator.exo_tokens(exo_latents[:1, [0, 2, 3]], places)
    (_, one), (_, other) = generator.groups(Given(exo_latents[:, 0], absent))
    assert torch.equal(generator.exo_tokens(one.exo_latents, one.places), expected)
    assert other.places.tolist() == [[0, 1, 2, 3]]


def test_positions_start_at_zero_and_are_refused_on_a_larger_grid(patch_embedding, exo_latents):
    settings = MultiExoConSettings.model_validate({"positions": LEARNED})
    exo_tokens = ExoTokens(patch_embedding, settings)
    plain = ExoTokens(patch_embedding)(exo_latents, PLACES)
    assert torch.equal(exo_tokens(exo_latents, PLACES), plain)
    with pytest.raises(ShapeFault, match="'rows': 2") as fault:
        exo_tokens(exo_latents.repeat(1, 1, 1, 1, 2, 1), PLACES)
    assert "'rows': 4" in str(fault.value)


def test_a_learned_null_token_stands_for_dropped_clips_and_trains(exo_latents):
    generator = build({"null": "learned"})
    tokens = generator.exo_tokens(exo_latents, PLACES, torch.tensor([False, True]))
    null = dict(generator.named_parameters())["exo_tokens.learned_null"]
    assert null.any() and torch.equal(tokens[0], null[0].expand_as(tokens[0]))
    assert "exo_tokens.learned_null" in trainable_parameters(generator, "multiexocon")


@pytest.mark.parametrize("views", [1, 2, 3, 4])
def test_any_number_of_views_is_taken(exo_latents, views: int):
    generator = build({})
    given = Given(exo_latents[:, 0], exo_latents[:, :views])
    assert velocities(generator, given).isfinite().all()
    assert (
        not torch.equal(
            velocities(generator, given), velocities(generator, Given(given.condition, exo_latents))
        )
        or views == V
    )
