"""Sampling: reproducible clip by clip, resumable, and only with what the generator was fed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import load_file

from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.evaluate import evaluate
from exo2ego.evaluation.film_generator import noise_seed
from exo2ego.evaluation.filming import shown_frames
from exo2ego.evaluation.manifest import MANIFEST, SamplesFault, read_manifest
from exo2ego.evaluation.sample import sample
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.wan_memory import MemorySettings
from exo2ego.training.checkpoint import CheckpointFault, find_checkpoint, read_state
from exo2ego.training.first_frame_sources import Predicted
from exo2ego.training.first_frames import encode_first_frames
from exo2ego.training.trainer import train
from stores.errors import StoreFault
from stores.index import ClipRow
from stores.progress import Track
from stores.reading import Store
from stores.schema import ARRAYS
from stores.version import StoreRecipe
from stores.zarr_store import commit, create_store, open_store, stored_clips, write_shard

QUICK = SamplerSettings(steps=3)
ONE = ClipChoice(limit=1)
TEST_1 = ["cmu_bike02_1-f000000", "cmu_bike02_3-f000000", "nus_covidtest_9-f000000"]


@pytest.fixture(scope="module")
def samples(
    framed_store: Store, runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Samples of the whole evaluation set."""
    out = tmp_path_factory.mktemp("samples") / "poseinj"
    report = sample(framed_store, runs["poseinj"], out, vae_spec="tiny", sampler=QUICK)
    assert (report.clips, report.clips_new) == (3, 3)
    return out


def frames_of(out: Path, clip_id: str) -> torch.Tensor:
    return load_file(out / f"{clip_id}.safetensors")["frames"]


def test_each_clip_of_the_set_has_lossless_frames_and_pictures(samples: Path, store: Store):
    manifest = read_manifest(samples)
    assert sorted(manifest.clips) == TEST_1
    assert manifest.settings.sampler == QUICK
    assert manifest.settings.store_hash == store.hash
    for clip_id, clip in manifest.clips.items():
        frames = frames_of(samples, clip_id)
        assert (frames.shape, frames.dtype) == ((5, 32, 48, 3), torch.uint8)
        assert clip.noise_seed == noise_seed(0, clip_id)
        assert all((samples / name).is_file() for name in (clip.frames, *clip.pictures))
    assert len(list(samples.iterdir())) == 1 + 3 * 4


def test_videos_play_at_the_clips_own_rate(samples: Path):
    for ending, hw in (("ego", (32, 48)), ("side-by-side", (2 * (32 + 16), 3 * 48))):
        with av.open(str(samples / f"{TEST_1[0]}.{ending}.mp4")) as container:
            stream = container.streams.video[0]
            assert float(stream.average_rate) == 7.5
            assert (stream.height, stream.width) == hw


def test_a_clips_video_does_not_depend_on_the_others(
    samples: Path, framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    report = sample(
        framed_store,
        runs["poseinj"],
        tmp_path,
        vae_spec="tiny",
        sampler=QUICK,
        clips=ClipChoice(limit=2),
    )
    assert report.clips == 2
    assert torch.equal(frames_of(tmp_path, TEST_1[1]), frames_of(samples, TEST_1[1]))


def test_seed_and_clip_change_the_noise(
    samples: Path, framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    assert len({noise_seed(0, TEST_1[0]), noise_seed(1, TEST_1[0]), noise_seed(0, TEST_1[1])}) == 3
    run = runs["poseinj"]
    sample(framed_store, run, tmp_path, vae_spec="tiny", sampler=QUICK, clips=ONE, seed=1)
    assert not torch.equal(frames_of(tmp_path, TEST_1[0]), frames_of(samples, TEST_1[0]))


def test_an_interrupted_call_keeps_what_is_done(
    samples: Path,
    framed_store: Store,
    runs: dict[str, Path],
    stops_after: Callable[[int], Track],
    tmp_path: Path,
):
    arguments = {"vae_spec": "tiny", "sampler": QUICK}
    with pytest.raises(KeyboardInterrupt):
        sample(framed_store, runs["poseinj"], tmp_path, track=stops_after(1), **arguments)
    kept = (tmp_path / f"{TEST_1[0]}.safetensors").stat().st_mtime_ns
    report = sample(framed_store, runs["poseinj"], tmp_path, **arguments)
    assert (report.clips, report.clips_new) == (3, 2)
    assert (tmp_path / f"{TEST_1[0]}.safetensors").stat().st_mtime_ns == kept
    for clip_id in TEST_1:
        assert torch.equal(frames_of(tmp_path, clip_id), frames_of(samples, clip_id))


def test_a_video_of_nan_is_a_fault_and_no_black_picture(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    beyond_float32 = SamplerSettings(steps=2, guidance=1e300)
    with pytest.raises(SamplesFault, match=TEST_1[0]):
        sample(framed_store, runs["multiexocon"], tmp_path, vae_spec="tiny", sampler=beyond_float32)
    assert not list(tmp_path.glob("*.safetensors"))


def test_one_pixel_of_nan_names_its_clip_among_others():
    video = torch.zeros(3, 3, 5, 8, 10)
    assert shown_frames(video, ["a", "b", "c"]).shape == (3, 5, 8, 10, 3)
    video[1, 2, 4, 7, 9] = torch.nan
    with pytest.raises(SamplesFault, match="where:    b\n"):
        shown_frames(video, ["a", "b", "c"])


def test_a_sample_whose_file_is_gone_is_made_again(
    samples: Path, framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    shutil.copytree(samples, tmp_path / "copy")
    (tmp_path / "copy" / f"{TEST_1[2]}.safetensors").unlink()
    report = sample(
        framed_store, runs["poseinj"], tmp_path / "copy", vae_spec="tiny", sampler=QUICK
    )
    assert (report.clips, report.clips_new) == (3, 1)


def write_bare_store(path: Path, row: ClipRow, recipe: StoreRecipe) -> Store:
    """A store of one clip whose ego camera was not filmed, and which lacks its last view."""
    row = replace(row, ego=replace(row.ego, video=""), exos=(*row.exos[:2], None))
    create_store(path, recipe, clips_per_shard=4)
    arrays, random = {}, np.random.default_rng(0)
    for name, spec in ARRAYS.items():
        numbers = random.standard_normal(spec.row_shape(recipe.clips.shape)).astype(spec.dtype)
        if "v" in spec.axes and spec.dtype == "float16":
            np.moveaxis(numbers, spec.axes.split().index("v"), 0)[2] = np.nan
        if not spec.of_ego_video:
            arrays[name] = [numbers]
    done = write_shard(path, 0, [row], arrays)
    stored = stored_clips(done, {row.clip_id: row}, 4)
    commit(path, stored, command="test", index_digest="0" * 64)
    return open_store(path)


@pytest.mark.parametrize("stage", ["multiexocon", "poseinj"])
def test_a_clip_that_was_not_filmed_and_lacks_a_view_is_sampled_all_the_same(
    store: Store,
    clip_rows: list[ClipRow],
    align_run: Path,
    runs: dict[str, Path],
    tmp_path: Path,
    stage: str,
):
    row = next(row for row in clip_rows if row.clip_id == TEST_1[0])
    bare = write_bare_store(tmp_path / "bare.store", row, store.recipe)
    encode_first_frames(bare, Predicted(align_run, True), vae_spec="tiny")
    sample(bare, runs[stage], tmp_path / "out", vae_spec="tiny", sampler=QUICK)
    frames = frames_of(tmp_path / "out", TEST_1[0])
    assert frames.float().std() > 0
    with av.open(str(tmp_path / "out" / f"{TEST_1[0]}.side-by-side.mp4")) as container:
        (first, *_) = container.decode(video=0)
    tiles = first.to_ndarray(format="rgb24")
    assert tiles.shape == (2 * (32 + 16), 2 * 48, 3)  # two views; no truth, generated
    assert tiles[: 32 + 16, 48:].max() < 20
    with pytest.raises(StoreFault, match="no ego video"):
        evaluate(bare, tmp_path / "out")


@pytest.mark.parametrize("change", ["seed", "run", "steps"])
def test_a_folder_made_otherwise_is_refused(
    change: str, samples: Path, framed_store: Store, runs: dict[str, Path]
):
    run = runs["multiexocon" if change == "run" else "poseinj"]
    sampler = SamplerSettings(steps=4) if change == "steps" else QUICK
    seed = 3 if change == "seed" else 0
    with pytest.raises(SamplesFault, match="made otherwise"):
        sample(framed_store, run, samples, vae_spec="tiny", sampler=sampler, seed=seed)


def test_multiexocon_can_be_sampled_without_poses(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    run = runs["multiexocon"]
    sample(framed_store, run, tmp_path, vae_spec="tiny", sampler=QUICK, clips=ONE)
    assert frames_of(tmp_path, TEST_1[0]).shape == (5, 32, 48, 3)


def test_a_bf16_run_is_sampled_in_bf16_with_the_solver_in_fp32(
    framed_store: Store, runs: dict[str, Path], tiny_experiment, tmp_path: Path
):
    """The same weights, used in both precisions, give nearly the same video."""
    half, whole = tmp_path / "half", tmp_path / "whole"
    shutil.copytree(runs["multiexocon"], whole)
    shutil.copytree(runs["multiexocon"], half)
    path = find_checkpoint(half) / "state.json"
    path.write_text(path.read_text().replace('"precision": "fp32"', '"precision": "bf16"'))
    for run in (half, whole):
        out = tmp_path / f"{run.name}-samples"
        sample(framed_store, run, out, vae_spec="tiny", sampler=QUICK, clips=ONE)
    first, second = (frames_of(tmp_path / f"{r}-samples", TEST_1[0]) for r in ("half", "whole"))
    difference = (first.float() - second.float()).abs()
    assert 0 < difference.mean() < 2


def test_first_frames_that_are_not_there_are_a_fault_with_the_command(
    store: Store, runs: dict[str, Path], tmp_path: Path
):
    with pytest.raises(StoreFault, match="exo2ego encode-first-frames"):
        sample(store, runs["poseinj"], tmp_path, vae_spec="tiny")


def test_a_generator_whose_checkpoint_lost_its_first_frames_is_refused(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    run = tmp_path / "run"
    shutil.copytree(runs["multiexocon"], run)
    path = find_checkpoint(run) / "state.json"
    lost = orjson.loads(path.read_bytes()) | {"first_frames": None}
    path.write_bytes(orjson.dumps(lost))
    with pytest.raises(CheckpointFault, match="first_frames"):
        sample(framed_store, run, tmp_path / "out", vae_spec="tiny")


def test_other_first_frames_than_the_generators_are_refused(
    store: Store, store_path: Path, runs: dict[str, Path], tiny_experiment, tmp_path: Path
):
    own = tmp_path / "own.store"
    shutil.copytree(store_path, own)
    other = tmp_path / "align"
    train("align", store, other, tiny_experiment("align", "seed=9"))
    opened = open_store(own)
    encode_first_frames(opened, Predicted(other), vae_spec="tiny")
    digest = read_state(find_checkpoint(runs["poseinj"])).first_frames
    with pytest.raises(StoreFault, match=str(digest)[:12]):
        sample(opened, runs["poseinj"], tmp_path / "out", vae_spec="tiny", sampler=QUICK)


def test_an_evaluation_set_that_is_not_there_is_refused(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    with pytest.raises(StoreFault, match="test-all"):
        sample(framed_store, runs["poseinj"], tmp_path, vae_spec="tiny", clips=ClipChoice("test-9"))


def test_a_manifest_that_is_none_is_a_fault(tmp_path: Path):
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(SamplesFault, match="exo2ego sample"):
        read_manifest(tmp_path)


def test_offloaded_wan_makes_the_same_frames_and_float8_is_told_apart(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    arguments = {"vae_spec": "tiny", "sampler": QUICK, "clips": ONE}
    for name, memory in {
        "plain": MemorySettings(),
        "offloaded": MemorySettings(offload="group"),
        "float8": MemorySettings(base="fp8"),
    }.items():
        sample(framed_store, runs["poseinj"], tmp_path / name, memory=memory, **arguments)
    (clip_id,) = read_manifest(tmp_path / "plain").clips
    plain, offloaded = (
        load_file(tmp_path / name / f"{clip_id}.safetensors")["frames"]
        for name in ("plain", "offloaded")
    )
    assert torch.equal(plain, offloaded)
    assert read_manifest(tmp_path / "float8").settings.weights == "fp8"
    with pytest.raises(SamplesFault, match="weights"):
        sample(framed_store, runs["poseinj"], tmp_path / "float8", **arguments)
