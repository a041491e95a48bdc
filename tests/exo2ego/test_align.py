"""Every EgoExo-Align: shapes, views and their order, what it reads, faults, and its checkpoints."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from exo2ego.geometry.clip_points import ALIGN_DEPTHS
from exo2ego.model.align import (
    ALIGN_MODELS,
    AlignSettings,
    CrossAttentionSettings,
    PixelNerfSettings,
    STTransformerSettings,
    align_given,
    align_reads,
    build_align,
)
from exo2ego.model.align.prediction import AlignFault, AlignGiven
from exo2ego.training.checkpoint import find_checkpoint
from exo2ego.training.experiment import AlignExperiment
from exo2ego.training.experiment_file import experiment_names, load_experiment
from exo2ego.training.first_frame_sources import predict_first_latent
from exo2ego.training.stages import STAGES, load_model
from exo2ego.training.trainer import train
from stores.errors import ShapeFault
from stores.reading import Store
from stores.schema import ClipShape
from stores.stream import ClipStream

SMALL = {
    "st_transformer": STTransformerSettings(width=20, blocks=2, heads=2, head_width=6),
    "cross_attention": CrossAttentionSettings(
        name="cross_attention", width=20, blocks=2, heads=2, head_width=6
    ),
    "cross_attention without pose": CrossAttentionSettings(
        name="cross_attention", pose=False, width=20, blocks=2, heads=2, head_width=6
    ),
    "pixelnerf": PixelNerfSettings(name="pixelnerf", width=12, encoder_blocks=1),
}
SMALL_KEYS = {
    "align-s": ["width=32", "blocks=1", "heads=2", "head_width=16"],
    "align-cross-attention": ["width=32", "blocks=1", "heads=2", "head_width=16"],
    "align-cross-attention-nopose": ["width=32", "blocks=1", "heads=2", "head_width=16"],
    "align-pixelnerf": ["width=12", "encoder_blocks=1"],
}
"""What makes each experiment of the family small."""
every = pytest.mark.parametrize("name", SMALL)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed))


def given(settings: AlignSettings, v: int = 3, h: int = 4, w: int = 6, b: int = 2) -> AlignGiven:
    """Clips of these views; of the points along the rays some are not seen."""
    points = 2 * torch.rand(b, v, ALIGN_DEPTHS, h, w, 2, generator=rng(3)) - 1
    points[torch.rand(points.shape[:-1], generator=rng(4)) < 0.3] = torch.nan
    arrays = {"align_rays": draw(2, b, v, 6, h, w), "align_points": points}
    return align_given(settings, draw(1, b, v, 16, h, w), arrays)


def with_views(of: AlignGiven, views: list[int]) -> AlignGiven:
    """The same clips with some of their views, in this order."""
    return AlignGiven(**{name: value[:, views] for name, value in of.arrays().items()})


def test_every_kind_of_settings_has_a_model_and_is_tried_here():
    assert {type(settings) for settings in SMALL.values()} == set(ALIGN_MODELS)


@every
@pytest.mark.parametrize("v", [1, 2, 3, 4])
def test_any_number_of_views_gives_one_frame(name: str, v: int):
    prediction = build_align(SMALL[name], rng())(given(SMALL[name], v))
    assert prediction.latent.shape == (2, 16, 4, 6)
    assert prediction.rays.shape == (2, 6, 4, 6)
    assert prediction.latent.isfinite().all()


@every
@pytest.mark.parametrize(("frames", "hw"), [(5, (64, 96)), (17, (128, 128))])
def test_other_clip_shapes_work(name: str, frames: int, hw: tuple[int, int]):
    h, w = ClipShape(views=2, frames=frames, hw=hw).latent().hw
    prediction = build_align(SMALL[name], rng())(given(SMALL[name], 2, h, w, b=1))
    assert prediction.latent.shape == (1, 16, h, w)


@every
def test_a_clip_depends_neither_on_its_batch_nor_on_absent_views(name: str):
    model, all_views = build_align(SMALL[name], rng()), given(SMALL[name], 4, b=3)
    marked = {key: value.clone() for key, value in all_views.arrays().items()}
    for value in marked.values():
        value[1, [0, 3]] = torch.nan
    together = model(AlignGiven(**marked)).latent
    for clip, views in enumerate(([0, 1, 2, 3], [1, 2], [0, 1, 2, 3])):
        one = {key: value[clip : clip + 1, views] for key, value in all_views.arrays().items()}
        assert_close(together[clip], model(AlignGiven(**one)).latent[0])


@every
def test_every_view_and_every_array_that_is_read_matters(name: str):
    model, before = build_align(SMALL[name], rng()), given(SMALL[name])
    expected = model(before).latent
    for view in range(3):
        for array, value in before.arrays().items():
            moved = value.clone()
            moved[:, view] = 0.7 * moved[:, view] + 0.1
            changed = model(AlignGiven(**{**before.arrays(), array: moved})).latent
            assert not torch.allclose(changed, expected, atol=1e-6), (view, array)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "st_transformer"])
def test_without_a_place_of_its_own_a_view_may_come_anywhere(name: str):
    model, one = build_align(SMALL[name], rng()), given(SMALL[name], 4)
    for order in ([3, 1, 0, 2], [1, 2, 3, 0]):
        assert_close(model(with_views(one, order)).latent, model(one).latent)


def test_the_st_transformer_tells_neighbouring_views_apart():
    """Its position encoding looks at the views before and after: the order is part of it."""
    model, one = build_align(SMALL["st_transformer"], rng()), given(SMALL["st_transformer"], 4)
    turned = model(with_views(one, [2, 0, 1, 3])).latent
    assert not torch.allclose(turned, model(one).latent, atol=1e-5)
    torch.nn.init.zeros_(model.blocks[0].space.neighbours.weight)
    for half in (half for block in model.blocks for half in (block.space, block.views)):
        torch.nn.init.zeros_(half.neighbours.weight)
    assert_close(model(with_views(one, [2, 0, 1, 3])).latent, model(one).latent)


@every
def test_every_weight_learns(name: str):
    model, one = build_align(SMALL[name], rng()), given(SMALL[name])
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        prediction = model(one)
        (prediction.latent.abs().mean() + prediction.rays.abs().mean()).backward()
        optimiser.step()
    # The bias's last constant shifts whole rows of logits, which the softmax does not see.
    dead = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not [key for key in dead if key != "position_bias.net.4.bias"]
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@every
def test_its_start_depends_on_the_generator_alone(name: str):
    torch.manual_seed(8)
    state = torch.get_rng_state()
    first, second = (build_align(SMALL[name], rng(5)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    other = build_align(SMALL[name], rng(6))
    one = given(SMALL[name])
    assert torch.equal(first(one).latent, second(one).latent)
    assert not torch.equal(first(one).latent, other(one).latent)


@every
def test_bf16_is_near_fp32(name: str):
    model, one = build_align(SMALL[name], rng()), given(SMALL[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(one).latent.float()
    error = (half - model(one).latent).abs().mean() / model(one).latent.abs().mean()
    assert 0 < error < 0.05


@every
def test_one_batch_is_learned_by_heart(name: str):
    """Two clips, 200 steps: the loss falls tenfold."""
    settings = SMALL[name].model_copy(update={"width": 48})
    model, one, truth = build_align(settings, rng()), given(settings), draw(9, 2, 16, 4, 6)
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(200):
        loss = (model(one).latent - truth).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10


def test_without_pose_no_ray_enters():
    settings = SMALL["cross_attention without pose"]
    model, latents = build_align(settings, rng()), draw(1, 2, 3, 16, 4, 6)
    assert align_reads(settings) == ()
    one = model(AlignGiven(latents, draw(2, 2, 3, 6, 4, 6))).latent
    assert torch.equal(one, model(AlignGiven(latents, draw(8, 2, 3, 6, 4, 6))).latent)
    assert torch.equal(one, model(AlignGiven(latents)).latent)


@pytest.mark.parametrize("array", ["exo_first", "align_rays", "align_points"])
@pytest.mark.parametrize("axis", [1, 2, 3, 4])
def test_arrays_of_another_shape_are_told_with_both_shapes(array: str, axis: int):
    arrays = given(SMALL["pixelnerf"]).arrays()
    shape = tuple(arrays[array].narrow(axis, 0, 1).shape)
    with pytest.raises(ShapeFault, match=r"do not go together|renders over") as fault:
        cut = AlignGiven(**{**arrays, array: arrays[array].narrow(axis, 0, 1)})
        build_align(SMALL["pixelnerf"], rng())(cut)
    if (array, axis) == ("align_points", 2):
        assert f"{ALIGN_DEPTHS} points a ray" in fault.value.expected
    else:
        assert str(shape) in str(fault.value)


def test_an_array_that_lacks_is_named():
    one = given(SMALL["st_transformer"])
    for name, lacking in (("st_transformer", "align_rays"), ("pixelnerf", "align_points")):
        with pytest.raises(AlignFault, match=lacking):
            bare = AlignGiven(one.exo_first, None if lacking == "align_rays" else one.align_rays)
            build_align(SMALL[name], rng())(bare)


@pytest.mark.parametrize("array", ["exo_first", "align_rays"])
@pytest.mark.parametrize("place", [(1, 2, 0, 0, 0), (1, 2, 5, 3, 1)])
def test_half_a_view_is_refused_by_name(array: str, place: tuple[int, ...]):
    one = given(SMALL["st_transformer"])
    one.arrays()[array][place] = torch.nan
    with pytest.raises(AlignFault, match=f"{array}, clip 1 of the batch, view 2") as fault:
        build_align(SMALL["st_transformer"], rng())(one)
    assert "NaN in 1 of " in fault.value.got


@pytest.mark.parametrize("name", ["st_transformer", "cross_attention"])
def test_a_patch_that_does_not_divide_the_grid_is_refused(name: str):
    model = build_align(SMALL[name].model_copy(update={"patch": 3}), rng())
    with pytest.raises(ShapeFault, match=r"align\.patch"):
        model(given(SMALL[name]))


@pytest.mark.parametrize(
    ("experiment", "least", "most"),
    [
        ("align", 50.5e6, 51.0e6),
        ("align-s", 6.2e6, 6.6e6),
        ("align-cross-attention", 50.0e6, 51.1e6),
        ("align-cross-attention-nopose", 50.0e6, 51.1e6),
        ("align-pixelnerf", 5.3e6, 5.6e6),
    ],
)
def test_each_experiment_has_its_size(experiment: str, least: float, most: float):
    loaded = load_experiment(experiment)
    assert isinstance(loaded, AlignExperiment)
    with torch.device("meta"):
        model = ALIGN_MODELS[type(loaded.align)](loaded.align)
    assert least < sum(p.numel() for p in model.parameters()) < most


def test_every_experiment_of_the_family_is_trained_here():
    family = {name for name in experiment_names() if name.startswith("align")}
    assert family == {"align", *SMALL_KEYS}  # align itself: the runs of conftest


@pytest.mark.parametrize("experiment", SMALL_KEYS)
def test_an_experiment_trains_and_its_checkpoint_predicts_the_same(
    experiment: str, store: Store, tmp_path: Path
):
    small = [f"align.{key}" for key in SMALL_KEYS[experiment]]
    steps = ["optimiser.steps=2", "optimiser.warmup_steps=1", "precision=fp32"]
    loaded = load_experiment(
        experiment, [*small, *steps, "batch.global_batch=4", "batch.micro_batch=2"]
    )
    assert isinstance(loaded, AlignExperiment)
    train("align", store, tmp_path, loaded)
    first, second = (
        load_model(find_checkpoint(tmp_path), wan_spec=None, device="cpu") for _ in range(2)
    )
    clips = store.clip_ids[:3]
    latent = predict_first_latent(store, clips, first, loaded, "cpu")
    assert torch.equal(latent, predict_first_latent(store, clips, second, loaded, "cpu"))
    fresh = build_align(loaded.align, rng(loaded.seed))
    assert not torch.equal(latent, predict_first_latent(store, clips, fresh, loaded, "cpu"))


@pytest.mark.parametrize("experiment", SMALL_KEYS)
def test_the_stage_reads_what_the_model_needs_and_no_more(experiment: str, store: Store):
    loaded = load_experiment(experiment)
    assert isinstance(loaded, AlignExperiment)
    reads = STAGES["align"].reads(loaded)
    assert reads == ("exo_latents[0]", "ego_latents[0]", *align_reads(loaded.align))
    batch = ClipStream(store, reads, batch_size=2, seed=0).batch_at(0)
    assert set(batch.arrays) == set(reads)
