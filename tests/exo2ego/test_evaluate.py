"""Scores: the right means, nothing skipped in silence, nothing invented."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.evaluate import evaluate, open_evaluation
from exo2ego.evaluation.lpips import LAYERS, Lpips, load_heads
from exo2ego.evaluation.manifest import MANIFEST, SamplesFault
from exo2ego.evaluation.metrics import psnr, ssim
from exo2ego.evaluation.sample import sample
from exo2ego.evaluation.score_table import table_provenance
from exo2ego.evaluation.scores import Scores
from exo2ego.evaluation.view_bias import pixel_distance, view_bias
from exo2ego.model.flow import SamplerSettings
from stores.progress import Item
from stores.reading import Store

CLIPS = ("cmu_bike02_1-f000000", "cmu_bike02_1-f000036")


@pytest.fixture
def samples(framed_store: Store, runs: dict[str, Path], tmp_path: Path) -> Path:
    """Samples of all test clips: two of one take, one of each of two more."""
    out = tmp_path / "samples"
    sampler = SamplerSettings(steps=1, guidance=1.0)
    run = runs["multiexocon"]
    sample(framed_store, run, out, vae_spec="tiny", sampler=sampler, clips=ClipChoice("test-all"))
    return out


@pytest.fixture(autouse=True)
def no_trunk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own AlexNet, if it has one, is not looked at."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def truth_of(store: Store, clip_id: str) -> torch.Tensor:
    return torch.from_numpy(store.read("ego_frames", [clip_id])[0])


def frames_of(samples: Path, clip_id: str) -> torch.Tensor:
    return load_file(samples / f"{clip_id}.safetensors")["frames"]


def test_means_are_over_frames_then_takes(samples: Path, framed_store: Store):
    scores = evaluate(framed_store, samples)
    pairs = [(frames_of(samples, clip), truth_of(framed_store, clip)) for clip in CLIPS]
    first = scores.takes["cmu_bike02_1"]
    assert first.psnr == pytest.approx(torch.cat([psnr(x, y) for x, y in pairs]).mean().item())
    assert first.ssim == pytest.approx(torch.cat([ssim(x, y) for x, y in pairs]).mean().item())
    bike = (first.ssim + scores.takes["cmu_bike02_3"].ssim) / 2
    assert scores.categories["Bike"].ssim == pytest.approx(bike)
    assert scores.categories["Covid Test"] == scores.takes["nus_covidtest_9"]
    assert scores.overall.psnr == pytest.approx(
        sum(take.psnr for take in scores.takes.values()) / 3
    )
    assert (len(scores.clips), scores.missing) == (4, [])


def test_without_a_trunk_lpips_is_not_measured_and_never_zero(samples: Path, framed_store: Store):
    evaluate(framed_store, samples)
    plain = json.loads((samples / "scores.json").read_text())
    scores = [plain["overall"], *plain["takes"].values(), *plain["clips"].values()]
    assert {score["lpips"] for score in scores} == {"not measured"}
    assert plain["provenance"]["lpips_trunk"] == "not measured"


def write_random_trunk(path: Path) -> dict[str, torch.Tensor]:
    """Weights of AlexNet's shapes."""
    generator, channels, trunk = torch.Generator().manual_seed(0), 3, {}
    for name, layer in LAYERS.items():
        shape = (layer.channels, channels, layer.kernel, layer.kernel)
        trunk[f"{name}.weight"] = torch.randn(shape, generator=generator)
        trunk[f"{name}.bias"] = torch.zeros(layer.channels)
        channels = layer.channels
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(trunk, path)
    return trunk


def test_with_a_trunk_lpips_is_measured(
    samples: Path, framed_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    trunk = write_random_trunk(tmp_path / "alexnet.pth")
    digest = hashlib.sha256((tmp_path / "alexnet.pth").read_bytes()).hexdigest()
    monkeypatch.setattr("exo2ego.evaluation.lpips.TRUNK_SHA256", digest)
    scores = evaluate(framed_store, samples, trunk=tmp_path / "alexnet.pth")
    metric = Lpips(trunk, load_heads())
    (frames, truth) = frames_of(samples, CLIPS[0]), truth_of(framed_store, CLIPS[0])
    assert scores.clips[CLIPS[0]].lpips == pytest.approx(metric(frames, truth).mean().item())
    takes = [take.lpips for take in scores.takes.values()]
    assert scores.overall.lpips == pytest.approx(sum(takes) / 3)
    assert len(scores.provenance["lpips_trunk"]) == 64


def test_the_truth_itself_scores_as_perfect_and_survives_json(samples: Path, framed_store: Store):
    for clip_id in framed_store.select(evaluation_set="test-all"):
        save_file({"frames": truth_of(framed_store, clip_id)}, samples / f"{clip_id}.safetensors")
    scores = evaluate(framed_store, samples)
    assert scores.overall.psnr == math.inf
    assert scores.overall.ssim == pytest.approx(1.0)
    assert Scores.model_validate_json((samples / "scores.json").read_text()) == scores


def test_clips_without_a_video_are_named(samples: Path, framed_store: Store, tmp_path: Path):
    manifest = json.loads((samples / MANIFEST).read_text())
    del manifest["clips"][CLIPS[1]]
    (samples / MANIFEST).write_text(json.dumps(manifest))
    scores = evaluate(framed_store, samples, out=tmp_path / "other.json")
    assert scores.missing == [CLIPS[1]]
    assert CLIPS[1] not in scores.clips
    assert Scores.model_validate_json((tmp_path / "other.json").read_text()) == scores
    assert not (samples / "scores.json").exists()


def test_scores_say_what_they_were_made_of(samples: Path, framed_store: Store):
    provenance = evaluate(framed_store, samples).provenance
    assert provenance["samples"]["store_hash"] == framed_store.hash
    assert provenance["samples"]["sampler"]["steps"] == 1
    assert {"method", "manifest_digest", "software"} <= set(provenance)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_sample_that_cannot_be_read_is_a_fault(damage: str, samples: Path, framed_store: Store):
    path = samples / f"{CLIPS[0]}.safetensors"
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(SamplesFault, match="exo2ego sample"):
        evaluate(framed_store, samples)


def test_samples_of_another_store_or_none_at_all_are_refused(samples: Path, framed_store: Store):
    manifest = json.loads((samples / MANIFEST).read_text())
    (samples / MANIFEST).write_text(json.dumps(manifest | {"clips": {}}))
    with pytest.raises(SamplesFault, match="no video"):
        evaluate(framed_store, samples)
    manifest["settings"]["store_hash"] = "9c07" * 16
    (samples / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(SamplesFault, match="another store"):
        evaluate(framed_store, samples)


def put_frames(samples: Path, clip_id: str, frames: torch.Tensor, clip: str | None = None):
    path = samples / f"{clip_id}.safetensors"
    save_file({"frames": frames.contiguous()}, path, metadata={"clip": clip or clip_id})


@pytest.mark.parametrize("damage", ["nan", "short", "small", "another clip's"])
def test_a_video_that_is_none_of_this_clip_is_a_fault_that_names_it(
    damage: str, samples: Path, framed_store: Store
):
    frames = frames_of(samples, CLIPS[0])
    bad = {
        "nan": (frames.float() / 255).where(frames != frames[0, 0, 0, 0], torch.nan),
        "short": frames[:4],
        "small": frames[:, :16],
        "another clip's": frames,
    }[damage]
    put_frames(samples, CLIPS[0], bad, CLIPS[1] if damage == "another clip's" else None)
    told = {"nan": "NaN", "another clip's": CLIPS[1]}.get(damage, "uint8")
    with pytest.raises(SamplesFault, match=CLIPS[0]) as caught:
        evaluate(framed_store, samples)
    assert told in str(caught.value)


def test_a_smaller_set_of_what_was_sampled_can_be_scored(samples: Path, framed_store: Store):
    scores = evaluate(framed_store, samples, clips=ClipChoice("test-1"))
    assert CLIPS[0] in scores.clips and CLIPS[1] not in scores.clips
    assert scores.provenance["clips"]["evaluation_set"] == "test-1"


def test_a_plan_tells_clips_and_hours_and_writes_nothing(samples: Path, framed_store: Store):
    plan = open_evaluation(framed_store, samples).plan()
    assert (plan.clips, plan.missing) == (4, [])
    assert plan.gpu_hours == pytest.approx(4 * plan.seconds_a_clip / 3600)
    assert not list(samples.glob("scores*"))


def test_the_table_has_a_row_a_frame_and_the_means_are_its_means(
    samples: Path, framed_store: Store
):
    scores = evaluate(framed_store, samples)
    table = pq.read_table(samples / "scores.parquet")
    assert table.num_rows == 4 * 5
    rows = [row for row in table.to_pylist() if row["clip_id"] == CLIPS[1]]
    assert [row["source_frame"] for row in rows] == list(framed_store.row(CLIPS[1]).frames)
    assert sum(row["psnr"] for row in rows) / 5 == pytest.approx(scores.clips[CLIPS[1]].psnr)
    assert table["lpips"].null_count == 20
    assert rows[0]["view_bias_pixels"] == scores.clips[CLIPS[1]].view_bias_pixels
    assert {row["view_bias_pixels"] for row in rows[1:]} == {None}
    assert table_provenance(samples / "scores.parquet") == scores.provenance


def test_groups_have_intervals_around_their_means_but_a_single_take_has_none(
    samples: Path, framed_store: Store
):
    scores = evaluate(framed_store, samples)
    overall = scores.intervals["overall"]["ssim"]
    assert overall.takes == 3
    takes = [take.ssim for take in scores.takes.values()]
    assert min(takes) <= overall.low <= scores.overall.ssim <= overall.high <= max(takes)
    assert scores.intervals["Bike"]["psnr"].takes == 2
    assert scores.intervals["Covid Test"]["psnr"].low == "not measured"
    assert "lpips" not in scores.intervals["overall"]
    assert evaluate(framed_store, samples).intervals == scores.intervals


def test_a_clips_own_measures_are_those_of_its_video(samples: Path, framed_store: Store):
    scores = evaluate(framed_store, samples)
    frames, truth = (frames_of(samples, CLIPS[0]), truth_of(framed_store, CLIPS[0]))
    exos = torch.from_numpy(framed_store.read("exo_frames", [CLIPS[0]])[0, :, 0])
    expected = view_bias(frames[0], truth[0], exos, pixel_distance)
    assert scores.clips[CLIPS[0]].view_bias_pixels == pytest.approx(expected)
    assert scores.clips[CLIPS[0]].view_bias == "not measured"  # without LPIPS
    assert scores.clips[CLIPS[0]].lag_frames == "not measured"  # the truth does not move
    assert scores.overall.timing_error_frames == "not measured"


class Stopped(BaseException):
    """Somebody presses Ctrl-C."""


def stop_after(count: int):
    def track(items: Iterable[Item], /, *, total: int, what: str, unit: str) -> Iterator[Item]:
        for number, item in enumerate(items):
            if number == count:
                raise Stopped
            yield item

    return track


def counted(seen: list[int]):
    def track(items: Iterable[Item], /, *, total: int, what: str, unit: str) -> Iterator[Item]:
        seen.append(total)
        yield from items

    return track


def test_an_evaluation_that_was_stopped_goes_on_and_finds_the_same(
    samples: Path, framed_store: Store, tmp_path: Path
):
    equal = torch.from_numpy(framed_store.read("ego_frames", [CLIPS[0]])[0])
    put_frames(samples, CLIPS[0], equal)  # its PSNR is infinite
    whole, out, seen = evaluate(framed_store, samples), tmp_path / "scores.json", []
    with pytest.raises(Stopped):
        evaluate(framed_store, samples, out=out, track=stop_after(2))
    assert not out.exists()
    notes = tmp_path / "scores.unfinished.jsonl"
    notes.write_bytes(notes.read_bytes() + b'{"clip_id": "cut o')
    assert evaluate(framed_store, samples, out=out, track=counted(seen)) == whole
    assert seen == [len(whole.clips) - 2]
    assert {path.name for path in tmp_path.glob("scores*")} == {"scores.json", "scores.parquet"}
    tables = (pq.read_table(folder / "scores.parquet") for folder in (tmp_path, samples))
    assert next(tables).equals(next(tables))


@pytest.mark.parametrize("change", ["video", "trunk", "settings"])
def test_what_was_measured_of_something_else_is_measured_anew(
    change: str, samples: Path, framed_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, seen = tmp_path / "scores.json", []
    with pytest.raises(Stopped):
        evaluate(framed_store, samples, out=out, track=stop_after(3))
    if change == "video":
        put_frames(samples, CLIPS[1], frames_of(samples, CLIPS[1]) // 2)
    elif change == "trunk":
        monkeypatch.setattr("exo2ego.evaluation.lpips.TRUNK_SHA256", "")
        write_random_trunk(tmp_path / "torch/hub/checkpoints/alexnet-owt-7be5be79.pth")
    else:
        manifest = json.loads((samples / MANIFEST).read_text())
        manifest["settings"]["seed"] = 1
        (samples / MANIFEST).write_text(json.dumps(manifest))
    scores = evaluate(framed_store, samples, out=out, track=counted(seen))
    assert seen == [2 if change == "video" else 4]
    assert scores == evaluate(framed_store, samples)


def test_scores_that_are_no_json_file_are_refused_before_anything_is_measured(
    samples: Path, framed_store: Store, tmp_path: Path
):
    with pytest.raises(SamplesFault, match=r"\.json"):
        evaluate(framed_store, samples, out=tmp_path / "scores.parquet", track=stop_after(0))
