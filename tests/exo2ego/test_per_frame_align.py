"""Align frame by frame: frame 0 is the first frame that Align predicts, and frames do not mix."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file

from exo2ego.evaluation.evaluate import evaluate
from exo2ego.evaluation.filming import Filming
from exo2ego.evaluation.manifest import SamplesFault, read_manifest
from exo2ego.evaluation.per_frame_align import clip_of_frame, per_frame_align
from exo2ego.evaluation.sample import sample
from exo2ego.geometry.camera import look_at
from exo2ego.geometry.clip_rays import CLIP_CAMERAS, CLIP_RAYS, clip_align_rays, clip_ego_rays
from exo2ego.model.align import align_given
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.vae import frames_from_video, load_codec, video_from_frames
from exo2ego.training.checkpoint import find_checkpoint, read_state
from exo2ego.training.experiment import AlignExperiment
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.first_frame_sources import predict_first_latent
from exo2ego.training.stages import load_model
from exo2ego.training.trainer import train
from stores.errors import StoreFault
from stores.index import ClipRow
from stores.reading import Store
from stores.schema import ARRAYS
from stores.zarr_store import commit, create_store, open_store, stored_clips, write_shard

FAMILY = {
    "align": ["width=32", "blocks=1", "heads=2", "head_width=16"],
    "align-cross-attention-nopose": ["width=32", "blocks=1", "heads=2", "head_width=16"],
    "align-pixelnerf": ["width=12", "encoder_blocks=1"],
}


def moving(row: ClipRow, frames: int) -> ClipRow:
    """The clip with a wearer who turns, and two cameras that stand and look on, not three."""
    up = torch.tensor([0, 0, 1.0], dtype=torch.float64)
    eye = torch.tensor([0.1, -0.2, 1.6], dtype=torch.float64)
    turns = [[0.4 + 0.1 * k, 0.9, 1.0 + 0.05 * k] for k in range(frames)]
    targets = torch.tensor(turns, dtype=torch.float64)
    ego = replace(row.ego, world_from_cam=look_at(eye, targets, up).numpy())
    exos = []
    for exo, place in zip(row.exos, ([1.5, 1.5, 1.4], [-2.0, 1.5, 1.1]), strict=False):
        assert exo is not None
        stands = torch.tensor([place], dtype=torch.float64)
        pose = look_at(stands, torch.tensor([[0.3, 0.4, 1.1]], dtype=torch.float64), up)
        exos.append(replace(exo, world_from_cam=pose.numpy()))
    return replace(row, ego=ego, exos=(*exos, None))


@pytest.fixture(scope="module")
def true_store(
    store: Store, clip_rows: list[ClipRow], tmp_path_factory: pytest.TempPathFactory
) -> Store:
    """A store of one clip whose latents and rays are those of its frames and cameras."""
    recipe = store.recipe.clips.model_copy(update={"min_views": 1})
    row = next(row for row in clip_rows if row.clip_id == "cmu_bike02_1-f000000")
    row, codec, random = moving(row, recipe.frames), load_codec("tiny"), np.random.default_rng(4)
    size = {name: spec.row_shape(recipe.shape) for name, spec in ARRAYS.items()}
    frames = {
        name: random.integers(0, 256, size[name], dtype=np.uint8)
        for name in ("ego_frames", "exo_frames")
    }
    frames["exo_frames"][2] = 0
    exo = codec.encode(video_from_frames(torch.from_numpy(frames["exo_frames"]))).half()
    ego = codec.encode(video_from_frames(torch.from_numpy(frames["ego_frames"][None]))).half()
    exo[2] = torch.nan
    arrays = {
        **frames,
        "exo_latents": rearrange(exo, "v c t h w -> t v c h w").numpy(),
        "ego_latents": rearrange(ego, "1 c t h w -> t c h w").numpy(),
        **{name: make(recipe, row) for name, make in CLIP_RAYS.items()},
    }
    path = tmp_path_factory.mktemp("true") / "true.store"
    create_store(path, store.recipe.model_copy(update={"clips": recipe}), clips_per_shard=4)
    done = write_shard(path, 0, [row], {name: [value] for name, value in arrays.items()})
    commit(path, stored_clips(done, {row.clip_id: row}, 4), command="test", index_digest="0" * 64)
    return open_store(path, derive=CLIP_CAMERAS)


@pytest.fixture(scope="module", params=FAMILY)
def run(
    request: pytest.FixtureRequest, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, AlignExperiment]:
    """A short run of one of the family."""
    small = [f"align.{key}" for key in FAMILY[request.param]]
    steps = ["optimiser.steps=2", "optimiser.warmup_steps=1", "precision=fp32"]
    batch = ["batch.global_batch=2", "batch.micro_batch=2"]
    experiment = load_experiment(request.param, [*small, *steps, *batch])
    assert isinstance(experiment, AlignExperiment)
    out = tmp_path_factory.mktemp("family") / "run"
    train("align", store, out, experiment)
    return out, experiment


def frames_of(out: Path, clip_id: str) -> torch.Tensor:
    return load_file(out / f"{clip_id}.safetensors")["frames"]


def test_frame_0_is_the_decoding_of_the_first_latent_that_align_predicts(
    true_store: Store, run: tuple[Path, AlignExperiment], tmp_path: Path
):
    """To the bit: latent frame 0 of a video is the latent of its first frame alone."""
    out, experiment = run
    (clip_id,) = true_store.clip_ids
    sample(true_store, out, tmp_path, vae_spec="tiny", allow_other_store=True)
    model = load_model(find_checkpoint(out), wan_spec=None, device="cpu")
    latent = predict_first_latent(true_store, [clip_id], model, experiment, "cpu")
    expected = frames_from_video(load_codec("tiny").decode(latent[:, :, None]))[0, 0]
    frames = frames_of(tmp_path, clip_id)
    assert (frames.shape, frames.dtype) == ((5, 32, 48, 3), torch.uint8)
    assert torch.equal(frames[0], expected)


def test_a_frame_depends_on_its_own_time_alone(
    true_store: Store, run: tuple[Path, AlignExperiment], tmp_path: Path
):
    """Frame 3 is frame 0 of the clip that consists of frame 3."""
    out, experiment = run
    (clip_id,) = true_store.clip_ids
    sample(true_store, out, tmp_path, vae_spec="tiny", allow_other_store=True)
    views = true_store.read("exo_frames", [clip_id])[0, :2, 3:4]
    encoded = load_codec("tiny").encode(video_from_frames(torch.from_numpy(views))).half()
    exo = rearrange(encoded, "v c 1 h w -> 1 v c h w")
    then, recipe = clip_of_frame(true_store.row(clip_id), 3), true_store.recipe.clips
    named = {
        name: torch.from_numpy(CLIP_CAMERAS[name](recipe, then))[None, :2]
        for name in experiment.align.reads
    }
    model = load_model(find_checkpoint(out), wan_spec=None, device="cpu")
    latent = model(align_given(experiment.align, exo, named)).latent
    expected = frames_from_video(load_codec("tiny").decode(latent[:, :, None]))[0, 0]
    frames = frames_of(tmp_path, clip_id)
    assert torch.equal(frames[3], expected) and not torch.equal(frames[3], frames[0])


def test_the_rays_of_a_later_frame_are_those_of_the_camera_then(true_store: Store):
    """In the reference view, they are the ego rays of that frame, but for the grid."""
    recipe, (row,) = true_store.recipe.clips, true_store.rows
    for number in range(recipe.frames):
        of_frame = clip_align_rays(recipe, clip_of_frame(row, number))[0].astype(float)
        pixels = clip_ego_rays(recipe, row)[number].astype(float)
        # A cell's ray goes through the corner that its four middle pixels share.
        around = pixels.reshape(6, 4, 8, 6, 8)[:, :, 3:5, :, 3:5].mean(axis=(2, 4))
        assert np.abs(of_frame - around).max() < 5e-3
    first, last = (clip_align_rays(recipe, clip_of_frame(row, k)) for k in (0, 4))
    assert np.nanmax(np.abs(first - last)) > 0.05


def test_the_folder_is_one_of_samples_and_is_scored(
    true_store: Store, run: tuple[Path, AlignExperiment], tmp_path: Path
):
    out, _ = run
    report = sample(true_store, out, tmp_path, vae_spec="tiny", allow_other_store=True)
    assert (report.clips, report.clips_new) == (1, 1)
    other = {"seed": 5, "sampler": SamplerSettings(steps=2)}  # neither matters here
    assert (
        sample(
            true_store, out, tmp_path, vae_spec="tiny", allow_other_store=True, **other
        ).clips_new
        == 0
    )
    manifest = read_manifest(tmp_path)
    settings = manifest.settings
    assert (settings.stage, settings.sampler, settings.seed) == ("align", None, None)
    (clip,) = manifest.clips.values()
    assert clip.noise_seed is None and all((tmp_path / name).is_file() for name in clip.pictures)
    scores = evaluate(true_store, tmp_path)
    assert scores.overall.psnr > 0 and scores.missing == []


def test_a_store_without_exo_frames_says_how_to_keep_them(
    run: tuple[Path, AlignExperiment], store: Store
):
    checkpoint = find_checkpoint(run[0])
    train_clip = next(row.clip_id for row in store.rows if row.split == "train")
    filming = Filming(
        store,
        checkpoint,
        read_state(checkpoint),
        load_codec("tiny"),
        [train_clip],
    )
    with pytest.raises(StoreFault, match="exo_frames"):
        per_frame_align(filming)([train_clip])


def test_a_folder_of_another_run_is_refused(
    true_store: Store, run: tuple[Path, AlignExperiment], align_run: Path, tmp_path: Path
):
    sample(true_store, align_run, tmp_path, vae_spec="tiny", allow_other_store=True)
    with pytest.raises(SamplesFault, match="weights_digest"):
        sample(true_store, run[0], tmp_path, vae_spec="tiny", allow_other_store=True)
