"""Stages: what trains, what a loss is made of, and what a checkpoint is built on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from exo2ego.model.align.prediction import AlignGiven
from exo2ego.model.wan import load_wan, load_with_text
from exo2ego.training.build import (
    Origin,
    StageFault,
    put_weights,
    train_in_fp32,
    trained_parameters,
    wan_fingerprint,
)
from exo2ego.training.checkpoint import CheckpointFault, find_checkpoint, read_weights
from exo2ego.training.experiment import Experiment
from exo2ego.training.stages import STAGES, clip_generator, given_of, load_model
from exo2ego.training.trainer import train
from stores.reading import Store
from stores.stream import ClipBatch, ClipStream

MakeExperiment = Callable[..., Experiment]


@pytest.fixture
def batch(framed_store: Store, tiny_experiment: MakeExperiment) -> ClipBatch:
    """Three clips with all that the last stage reads."""
    reads = STAGES["poseinj"].reads(tiny_experiment("poseinj"))
    stream = ClipStream(framed_store, reads, batch_size=3, seed=0)
    return stream.batch_at(0)


def losses(
    stage: str, model: torch.nn.Module, batch: ClipBatch, experiment: Experiment, step: int = 0
) -> torch.Tensor:
    generators = [clip_generator(experiment.seed, step, clip) for clip in batch.clip_ids]
    with torch.no_grad():
        return STAGES[stage].losses(model, batch, generators, experiment)


def part(batch: ClipBatch, order: list[int]) -> ClipBatch:
    arrays = {name: value[order] for name, value in batch.arrays.items()}
    ids, views = ([of[k] for k in order] for of in (batch.clip_ids, batch.views))
    return ClipBatch(ids, arrays, views)


def test_draws_depend_on_seed_step_and_clip_alone():
    def first(*key: object) -> float:
        return torch.rand((), generator=clip_generator(*key)).item()

    assert first(0, 3, "a") == first(0, 3, "a")
    assert len({first(0, 3, "a"), first(1, 3, "a"), first(0, 4, "a"), first(0, 3, "b")}) == 4


@pytest.mark.parametrize("stage", ["multiexocon", "poseinj"])
def test_a_clips_loss_does_not_depend_on_its_place_in_the_batch(
    stage: str, runs: dict[str, Path], batch: ClipBatch, tiny_experiment: MakeExperiment
):
    model = load_model(find_checkpoint(runs[stage]), wan_spec=None, device="cpu")
    if stage == "multiexocon":
        arrays = {k: v for k, v in batch.arrays.items() if k != "ego_rays"}
        batch = ClipBatch(batch.clip_ids, arrays, batch.views)
    experiment = tiny_experiment(stage)
    together = losses(stage, model, batch, experiment)
    turned = losses(stage, model, part(batch, [2, 0, 1]), experiment)
    alone = losses(stage, model, part(batch, [1]), experiment)
    torch.testing.assert_close(turned, together[[2, 0, 1]])
    torch.testing.assert_close(alone, together[[1]])
    assert not torch.equal(together, losses(stage, model, batch, experiment, step=1))


def test_the_velocity_that_is_wanted_has_loss_zero(
    batch: ClipBatch, tiny_experiment: MakeExperiment
):
    """A model that knows noise and truth: v = (noisy - x0) / sigma."""

    class Knowing(torch.nn.Module):
        def forward(self, noisy, sigma, given):
            truth = batch["ego_latents"].float()
            return (noisy - truth) / sigma.reshape(-1, 1, 1, 1, 1)

    got = losses("poseinj", Knowing(), batch, tiny_experiment("poseinj", "flow.low=0.2"))
    torch.testing.assert_close(got, torch.zeros(3), atol=1e-9, rtol=0)


def test_exo_tokens_are_dropped_for_the_share_of_clips_that_is_asked(
    batch: ClipBatch, tiny_experiment: MakeExperiment
):
    kept: list[bool] = []

    class Noting(torch.nn.Module):
        def forward(self, noisy, sigma, given):
            kept.extend(given.keep_exo.tolist())
            return noisy

    for step in range(300):
        losses("poseinj", Noting(), batch, tiny_experiment("poseinj"), step)
    assert 1 - sum(kept) / len(kept) == pytest.approx(0.1, abs=0.03)
    kept.clear()
    losses("poseinj", Noting(), batch, tiny_experiment("poseinj", "exo_dropout=0.0"))
    assert all(kept)


def test_align_is_blind_to_its_ray_channels(
    store: Store, runs: dict[str, Path], tiny_experiment: MakeExperiment
):
    reads = STAGES["align"].reads(tiny_experiment("align"))
    batch = ClipStream(store, reads, batch_size=2, seed=0).batch_at(0)
    model = load_model(find_checkpoint(runs["align"]), wan_spec=None, device="cpu")
    given = AlignGiven(batch["exo_latents[0]"].float(), batch["align_rays"].float())
    prediction = model(given)
    expected = (prediction.latent - batch["ego_latents[0]"].float()).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(losses("align", model, batch, tiny_experiment("align")), expected)


def test_multiexocon_trains_cross_attention_lora_and_tokens_and_poseinj_lora_and_poses(
    runs: dict[str, Path],
):
    first = set(read_weights(find_checkpoint(runs["multiexocon"])))
    second = set(read_weights(find_checkpoint(runs["poseinj"])))
    lora = {name for name in first if ".lora_" in name}
    assert all(".attn1." in name for name in lora)
    assert {name.split(".")[0] for name in first - lora if ".attn2." not in name} == {"exo_tokens"}
    assert lora < second
    assert all(name.startswith("wan.patch_embedding.") for name in second - lora)


def test_poseinj_starts_as_the_multiexocon_that_it_goes_on_from(
    runs: dict[str, Path], batch: ClipBatch, tiny_experiment: MakeExperiment
):
    first = load_model(find_checkpoint(runs["multiexocon"]), wan_spec=None, device="cpu")
    origin = Origin(tiny_experiment("poseinj"), "tiny", runs["multiexocon"], "cpu")
    second = STAGES["poseinj"].build(origin).model
    clip = part(batch, [0])
    noisy, sigma = torch.randn_like(clip["ego_latents"].float()), torch.tensor([0.4])
    with torch.no_grad():
        plain = first(noisy, sigma, given_of(clip, tiny_experiment("multiexocon")))
        posed = second(noisy, sigma, given_of(clip, tiny_experiment("poseinj")))
    assert torch.equal(plain, posed)


@pytest.mark.parametrize(
    "pose",
    [
        "{name='add', latent_width=6}",
        "{name='per-pixel', pixel_width=3, latent_width=6, token_width=10}",
        "{name='fun-fold'}",
        "{name='concat', rays='ego_motion_rays', latent_width=6, token_width=10}",
    ],
)
def test_each_form_of_poseinj_is_trained_and_loaded(
    pose: str,
    framed_store: Store,
    runs: dict[str, Path],
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
):
    experiment = tiny_experiment("poseinj", f"pose={pose}", "optimiser.steps=2")
    train("poseinj", framed_store, tmp_path, experiment, parent=runs["multiexocon"])
    folder = find_checkpoint(tmp_path)
    saved = read_weights(folder)
    parameters = dict(load_model(folder, wan_spec=None, device="cpu").named_parameters())
    added = {name for name in saved if ".lora_" not in name}
    own = {name for name in parameters if name.startswith("wan.patch_embedding.")}
    assert added == {name for name in own if not name.startswith("wan.patch_embedding.latents.")}
    assert all(torch.equal(parameters[name], value) for name, value in saved.items())


def test_a_checkpoints_weights_are_those_that_were_trained(runs: dict[str, Path]):
    folder = find_checkpoint(runs["poseinj"])
    parameters = dict(load_model(folder, wan_spec=None, device="cpu").named_parameters())
    parent = read_weights(find_checkpoint(runs["multiexocon"]))
    for name, value in {**parent, **read_weights(folder)}.items():
        assert torch.equal(parameters[name], value), name


def test_what_trains_is_fp32_beside_a_bf16_base(tiny_experiment: MakeExperiment):
    experiment = tiny_experiment("multiexocon", "precision=bf16")
    model = STAGES["multiexocon"].build(Origin(experiment, "tiny", None, "cpu")).model
    assert model.wan.blocks[0].attn2.to_q.weight.dtype == torch.bfloat16
    train_in_fp32(model)
    trained = trained_parameters(model)
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    assert model.wan.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16


def test_poseinj_without_a_parent_or_with_an_align_run_says_what_is_missing(
    runs: dict[str, Path], tiny_experiment: MakeExperiment
):
    build, experiment = STAGES["poseinj"].build, tiny_experiment("poseinj")
    with pytest.raises(StageFault, match="--from"):
        build(Origin(experiment, "tiny", None, "cpu"))
    with pytest.raises(StageFault, match="one of stage align"):
        build(Origin(experiment, "tiny", runs["align"], "cpu"))


def test_a_generator_without_wan_says_what_is_missing(tiny_experiment: MakeExperiment):
    with pytest.raises(StageFault, match="--wan"):
        STAGES["multiexocon"].build(Origin(tiny_experiment("multiexocon"), None, None, "cpu"))


def test_wans_fingerprint_is_the_same_in_bf16_and_tells_weights_apart():
    wan = load_wan("tiny")
    fingerprint = wan_fingerprint(wan)
    assert fingerprint == wan_fingerprint(load_wan("tiny", dtype=torch.bfloat16))
    with torch.no_grad():
        wan.blocks[0].norm2.bias += 1
    assert fingerprint != wan_fingerprint(wan)


def test_another_wan_is_refused(runs: dict[str, Path], tmp_path: Path):
    wan = load_with_text("tiny")
    with torch.no_grad():
        wan.proj_out.bias += 1
    wan.save_pretrained(tmp_path / "other" / "transformer_2")
    with pytest.raises(CheckpointFault, match="another Wan"):
        load_model(find_checkpoint(runs["poseinj"]), wan_spec=str(tmp_path / "other"), device="cpu")


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path):
    model = torch.nn.Linear(3, 2)
    with pytest.raises(CheckpointFault, match="weight"):
        put_weights(model, {"weight": torch.zeros(2, 4)}, tmp_path)
    with pytest.raises(CheckpointFault, match="no such parameter"):
        put_weights(model, {"stray": torch.zeros(2)}, tmp_path)
