"""Baselines: what each shows is what it says, and they are scored like a run's samples."""

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from pathlib import Path

import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from safetensors.torch import load_file

from exo2ego.evaluation.baselines import BaselineFault, baseline_settings, open_baseline
from exo2ego.evaluation.baselines.mean_frame import SUM_FILE
from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.evaluate import evaluate
from exo2ego.evaluation.film_generator import clip_noise
from exo2ego.evaluation.manifest import SamplesFault, read_manifest
from exo2ego.evaluation.metrics import psnr
from exo2ego.model.condition import ExoFrame
from exo2ego.model.vae import frames_from_video, load_codec
from exo2ego.model.wan import load_with_text
from exo2ego.training.first_frame_sources import OfExoView
from exo2ego.training.first_frames import encode_first_frames
from stores.errors import StoreFault
from stores.progress import Item, Track, silent
from stores.reading import Store

ALL_TEST = ClipChoice("test-all")


def made(store: Store, out: Path, name: str, clips: ClipChoice = ALL_TEST, **told: object) -> Path:
    settings = baseline_settings(name, **told)
    open_baseline(store, settings, out, vae_spec="tiny", clips=clips).fill(silent)
    return out


def frames_of(out: Path, clip_id: str) -> torch.Tensor:
    return load_file(out / f"{clip_id}.safetensors")["frames"]


def decoded_training_frames(store: Store) -> torch.Tensor:
    """All frames of all training clips, "n H W 3": the store keeps only their latents."""
    codec, clips = load_codec("tiny"), store.select(split="train")
    latents = torch.from_numpy(store.read("ego_latents", clips)).float().permute(0, 2, 1, 3, 4)
    return torch.cat([frames_from_video(codec.decode(one[None]))[0] for one in latents])


def test_the_mean_frame_is_the_mean_of_all_training_frames(store: Store, tmp_path: Path):
    out = made(store, tmp_path, "mean-frame")
    expected = decoded_training_frames(store).double().mean(dim=0)
    for clip_id in store.select(evaluation_set="test-all"):
        frames = frames_of(out, clip_id)
        assert frames.shape == (5, 32, 48, 3)
        assert (frames.double() - expected).abs().max() <= 0.5 + 1e-9
    about = read_manifest(out).settings.baseline
    assert about is not None and "decoded" in about["frames"] and "5 clips" in about["of"]


def test_the_sum_of_training_frames_goes_on_after_an_interruption(
    store: Store,
    tmp_path: Path,
    stops_after: Callable[[int], Track],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("exo2ego.evaluation.baselines.mean_frame._KEPT_EVERY", 2)
    seen = []

    def count(items: Iterable[Item], /, *, total: int, what: str, unit: str) -> Iterator[Item]:
        seen.append((what, total))
        yield from items

    settings, how = baseline_settings("mean-frame"), {"vae_spec": "tiny", "clips": ALL_TEST}
    with pytest.raises(KeyboardInterrupt):
        open_baseline(store, settings, tmp_path, track=stops_after(3), **how).fill(silent)
    assert int(load_file(tmp_path / SUM_FILE)["clips"]) == 2
    open_baseline(store, settings, tmp_path, track=count, **how).fill(silent)
    assert seen == [("mean frame", 3)]
    whole = made(store, tmp_path / "whole", "mean-frame")
    clip_id = store.select(evaluation_set="test-1")[0]
    assert torch.equal(frames_of(tmp_path, clip_id), frames_of(whole, clip_id))


def test_the_best_view_is_the_one_of_highest_psnr_over_its_take_and_said_to_be_an_oracle(
    store: Store, tmp_path: Path
):
    out = made(store, tmp_path / "best", "exo-view")
    for take in ("cmu_bike02_1", "cmu_bike02_3"):
        clips = [c for c in store.select(evaluation_set="test-all", take=take)]
        truths = [torch.from_numpy(store.read("ego_frames", [c])[0]) for c in clips]
        views = [torch.from_numpy(store.read("exo_frames", [c])[0]) for c in clips]
        means = [
            sum(float(psnr(v[k], t).mean()) for v, t in zip(views, truths, strict=True))
            for k in range(3)
        ]
        best = means.index(max(means))
        assert all(
            torch.equal(frames_of(out, clip), v[best]) for clip, v in zip(clips, views, strict=True)
        )
        assert f"view {best}, cam0{best + 1}" == read_manifest(out).clips[clips[0]].note
    assert "truth" in read_manifest(out).settings.baseline["choice"]  # pyright: ignore
    scores = {"best": evaluate(store, out).overall.psnr}
    for view in range(3):
        fixed = made(store, tmp_path / str(view), "exo-view", view=view)
        scores[str(view)] = evaluate(store, fixed).overall.psnr
    assert scores["best"] == pytest.approx(max(scores.values()))


def test_a_copied_exo_view_has_the_full_view_bias(store: Store, tmp_path: Path):
    scores = evaluate(store, made(store, tmp_path, "exo-view", view=1))
    assert {score.view_bias_pixels for score in scores.clips.values()} == {1.0}


def test_the_frozen_first_frame_is_the_decoded_first_latent_in_every_frame(
    framed_store: Store, tmp_path: Path
):
    out = made(framed_store, tmp_path, "frozen-first")
    stored = framed_store.derived("first_frames")
    for clip_id in framed_store.select(evaluation_set="test-1"):
        latent = torch.from_numpy(stored.read("first_latent", [clip_id])).float()
        still = frames_from_video(load_codec("tiny").decode(latent[:, :, None]))[0, 0]
        assert all(torch.equal(frame, still) for frame in frames_of(out, clip_id))
    settings = read_manifest(out).settings
    assert (settings.stage, settings.first_frames) == ("frozen-first", stored.digest)
    assert settings.baseline is not None and settings.baseline["source"]["name"] == "align"


def test_first_frames_that_are_not_there_are_a_fault(store: Store, tmp_path: Path):
    with pytest.raises(StoreFault, match="first_frames"):
        made(store, tmp_path, "frozen-first")


@pytest.mark.parametrize(
    ("name", "told"),
    [("mean", {}), ("mean-frame", {"view": 1}), ("exo-view", {"view": "worst"})],
)
def test_a_baseline_that_is_none_is_a_fault(name: str, told: dict[str, object]):
    with pytest.raises(BaselineFault, match="exo2ego baseline"):
        baseline_settings(name, **told)


def test_a_view_that_clips_lack_is_a_fault(store: Store, tmp_path: Path):
    with pytest.raises(BaselineFault, match="view 3"):
        made(store, tmp_path, "exo-view", view=3)


def test_folders_of_different_baselines_do_not_mix(store: Store, tmp_path: Path):
    made(store, tmp_path, "exo-view", view=0)
    with pytest.raises(SamplesFault, match="baseline"):
        made(store, tmp_path, "exo-view", view=1)


def test_the_foundation_is_wan_given_a_first_frame_and_512_empty_words(
    own_store: Store, tmp_path: Path
):
    """Against diffusers' transformer and scheduler by hand, with text as long as Wan pads it."""
    report = encode_first_frames(own_store, OfExoView(ExoFrame(view=1)), vae_spec="tiny")
    told = {"wan": "tiny", "first_frames": report.digest, "steps": 3, "seed": 5}
    out = made(own_store, tmp_path, "foundation", **told)
    clip_id = own_store.select(evaluation_set="test-all")[0]
    wan, codec = load_with_text("tiny").eval(), load_codec("tiny")
    stored = own_store.derived("first_frames", report.digest).read("condition", [clip_id])
    condition = torch.from_numpy(stored).float().transpose(1, 2)
    mask = torch.zeros_like(condition[:, :4])
    mask[:, :, 0] = 1
    scheduler = UniPCMultistepScheduler(
        num_train_timesteps=1000, prediction_type="flow_prediction", use_flow_sigmas=True,
        flow_shift=5.0,
    )  # fmt: skip
    scheduler.set_timesteps(3)
    latents, words = clip_noise(5, clip_id, condition.shape[1:])[None], torch.zeros(1, 512, 32)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            channels = torch.cat([latents, mask, condition], dim=1)
            (velocity,) = wan(channels, timestep.float()[None], words, return_dict=False)
            (latents,) = scheduler.step(velocity, timestep, latents, return_dict=False)
    by_hand = frames_from_video(codec.decode(latents))[0]
    assert (frames_of(out, clip_id).int() - by_hand.int()).abs().max() <= 1
    about = read_manifest(out).settings.baseline
    assert about is not None and about["source"] == {"name": "exo", "view": 1}


def test_another_seed_or_first_frame_makes_another_video(own_store: Store, tmp_path: Path):
    frames = {}
    for view in (0, 1):
        report = encode_first_frames(own_store, OfExoView(ExoFrame(view=view)), vae_spec="tiny")
        for seed in (0, 1):
            out = tmp_path / f"{view}{seed}"
            told = {"wan": "tiny", "first_frames": report.digest, "steps": 2, "seed": seed}
            made(own_store, out, "foundation", ClipChoice("test-1", limit=1), **told)
            clip_id = own_store.select(evaluation_set="test-1")[0]
            frames[view, seed] = frames_of(out, clip_id)
    for one, other in combinations(frames.values(), 2):
        assert not torch.equal(one, other)


def test_a_foundation_without_wan_or_first_frames_is_a_fault(store: Store, tmp_path: Path):
    with pytest.raises(BaselineFault, match="no such baseline"):
        baseline_settings("foundation")
    with pytest.raises(StoreFault):
        made(store, tmp_path, "foundation", wan="tiny", first_frames="0123456789")
