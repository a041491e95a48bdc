"""Other views and other ego cameras: what the model is shown is what was asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import load_file

from exo2ego.evaluation.camera_path import (
    CameraPath,
    CameraPathFault,
    clip_on_path,
    read_camera_path,
)
from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.evaluate import evaluate
from exo2ego.evaluation.manifest import SamplesFault, read_manifest
from exo2ego.evaluation.sample import sample
from exo2ego.evaluation.scene import Scene, SceneFault
from exo2ego.geometry.clip_rays import CLIP_CAMERAS, clip_ego_rays
from exo2ego.model.flow import SamplerSettings
from exo2ego.training.checkpoint import CheckpointFault
from exo2ego.training.trainer import train
from stores.index import ClipRow
from stores.reading import Store

HOW = {"vae_spec": "tiny", "sampler": SamplerSettings(steps=2), "clips": ClipChoice(limit=1)}
CLIP = "cmu_bike02_1-f000000"


def frames_of(out: Path) -> torch.Tensor:
    return load_file(out / f"{CLIP}.safetensors")["frames"]


def path_of(poses: np.ndarray, relative_to: str) -> CameraPath:
    return CameraPath.model_validate({"relative_to": relative_to, "poses": poses.tolist()})


def own_path(row: ClipRow) -> CameraPath:
    return path_of(row.ego.world_from_cam, "world")


def raised(row: ClipRow, metres: float = 0.4) -> CameraPath:
    """The clip's own path, higher by so much."""
    poses = row.ego.world_from_cam.copy()
    poses[:, 2, 3] += metres
    return path_of(poses, "world")


@pytest.mark.parametrize("stage", ["multiexocon", "poseinj", "vawan"])
def test_first_frames_made_anew_of_all_views_are_the_stored_ones_to_the_bit(
    stage: str, framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    made = {"scene": Scene((0, 1, 2)), "align_run": runs["align"]}
    sample(framed_store, runs[stage], tmp_path / "stored", **HOW)
    sample(framed_store, runs[stage], tmp_path / "made", **made, **HOW)
    assert torch.equal(frames_of(tmp_path / "stored"), frames_of(tmp_path / "made"))
    assert read_manifest(tmp_path / "stored").settings.first_frames_by is None
    assert read_manifest(tmp_path / "made").settings.first_frames_by is not None


@pytest.mark.parametrize("name", ["ego_rays", "ego_poses", "align_rays"])
def test_the_clips_own_path_changes_no_bit_of_what_is_made_of_it(name: str, store: Store):
    scene = Scene(path=own_path(store.row(CLIP)))
    made = CLIP_CAMERAS[name](store.recipe.clips, store.row(CLIP))
    assert torch.equal(scene.camera_array(store, name, [CLIP])[0], torch.from_numpy(made))


def test_another_path_is_seen_by_pose_conditioning_and_by_the_first_frame(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    row, how = framed_store.row(CLIP), {**HOW, "align_run": runs["align"]}
    videos = {}
    for stage in ("multiexocon", "poseinj"):
        for name, path in (("own", own_path(row)), ("raised", raised(row))):
            out = tmp_path / stage / name
            sample(framed_store, runs[stage], out, scene=Scene(path=path), **how)
            videos[stage, name] = frames_of(out)
            assert read_manifest(out).settings.camera == path
    for stage in ("multiexocon", "poseinj"):
        assert not torch.equal(videos[stage, "own"], videos[stage, "raised"])


def test_align_frame_by_frame_follows_the_path_and_the_views(
    store: Store, align_run: Path, tmp_path: Path
):
    row = store.row(CLIP)
    scenes = {
        "plain": Scene(),
        "own": Scene(path=own_path(row)),
        "raised": Scene(path=raised(row)),
        "two views": Scene(views=(0, 2)),
    }
    for name, scene in scenes.items():
        sample(store, align_run, tmp_path / name, scene=scene, **HOW)
    plain = frames_of(tmp_path / "plain")
    assert torch.equal(plain, frames_of(tmp_path / "own"))
    assert not torch.equal(plain, frames_of(tmp_path / "raised"))
    assert not torch.equal(plain, frames_of(tmp_path / "two views"))


def test_there_is_no_truth_for_another_path(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    scene = Scene(path=raised(framed_store.row(CLIP)))
    sample(framed_store, runs["poseinj"], tmp_path, scene=scene, align_run=runs["align"], **HOW)
    with pytest.raises(SamplesFault, match="no truth"):
        evaluate(framed_store, tmp_path)


def test_views_that_are_not_shown_change_the_video_as_if_the_clip_lacked_them(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    run = runs["multiexocon"]
    for name, views in (("all", None), ("one", (0,)), ("two", (0, 2)), ("swapped", (2, 0))):
        sample(framed_store, run, tmp_path / name, scene=Scene(views=views), **HOW)
    all_views, one, two, swapped = (
        frames_of(tmp_path / name) for name in ("all", "one", "two", "swapped")
    )
    assert not torch.equal(all_views, one) and not torch.equal(one, two)
    assert torch.equal(two, swapped)
    assert read_manifest(tmp_path / "two").settings.views == (0, 2)
    with pytest.raises(SamplesFault, match="views"):
        sample(framed_store, run, tmp_path / "two", **HOW)


def test_a_masked_view_is_nan_and_the_others_are_untouched(store: Store):
    stored = torch.from_numpy(store.read("exo_latents", [CLIP], first_frame=True))
    masked = Scene(views=(0, 2)).first_latents(store, [CLIP])
    assert masked[:, 1].isnan().all()
    assert torch.equal(masked[:, [0, 2]], stored[:, [0, 2]])


@pytest.mark.parametrize("views", [(), (3,), (0, 0), (-1,)])
def test_views_that_cannot_be_shown_are_a_fault(
    views: tuple[int, ...], framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    with pytest.raises(SceneFault, match="0 to 2"):
        sample(framed_store, runs["multiexocon"], tmp_path, scene=Scene(views=views), **HOW)
    assert not list(tmp_path.iterdir())


def test_a_camera_without_the_align_of_the_first_frames_is_a_fault(
    framed_store: Store, runs: dict[str, Path], store: Store, tiny_experiment: Any, tmp_path: Path
):
    how = {**HOW, "scene": Scene(path=raised(framed_store.row(CLIP)))}
    with pytest.raises(SceneFault, match="--align"):
        sample(framed_store, runs["poseinj"], tmp_path / "a", **how)
    train("align", store, tmp_path / "other", tiny_experiment("align", "seed=9"))
    with pytest.raises(CheckpointFault, match="not those of this"):
        sample(framed_store, runs["poseinj"], tmp_path / "b", align_run=tmp_path / "other", **how)


def test_a_pose_is_taken_to_the_world_from_each_of_the_frames(store: Store):
    row, step = store.row(CLIP), np.eye(4)
    step[:3, 3] = (0.3, -0.2, 0.5)
    turned = np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    exo = replace(row.present[0], world_from_cam=turned[None])
    row = replace(row, exos=(exo, *row.exos[1:]))
    expected = {
        "first": row.ego.world_from_cam[0] @ step,
        "reference": turned @ step,
        "world": step,
    }
    for relative_to, world_from_ego in expected.items():
        moved = clip_on_path(row, path_of(step[None], relative_to))
        assert moved.ego.world_from_cam.shape == (5, 4, 4)
        np.testing.assert_allclose(moved.ego.world_from_cam[3], world_from_ego, atol=1e-12)
        assert moved.ego.video == ""
    reference = clip_on_path(row, path_of(np.eye(4)[None], "reference"))
    moment = clip_ego_rays(store.recipe.clips, reference)[:, :3]
    assert np.abs(moment).max() < 1e-6  # rays from the reference's own place


def test_a_path_survives_its_file(tmp_path: Path, store: Store):
    path = own_path(store.row(CLIP))
    (tmp_path / "path.json").write_text(path.model_dump_json())
    assert read_camera_path(tmp_path / "path.json", 5) == path


@pytest.mark.parametrize(
    "change",
    [
        {"poses": [np.eye(4).tolist()] * 3},
        {"poses": [(2 * np.eye(4)).tolist()]},
        {"poses": [np.eye(3).tolist()]},
        {"poses": []},
        {"relative_to": "exo"},
        {"format": 2},
        {"fps": 3},
    ],
)
def test_a_file_that_is_no_path_is_a_fault(change: dict[str, Any], tmp_path: Path):
    good = {"format": 1, "relative_to": "world", "poses": [np.eye(4).tolist()]}
    file = tmp_path / "path.json"
    file.write_bytes(orjson.dumps(good))
    assert len(read_camera_path(file, 5).poses) == 1
    file.write_bytes(orjson.dumps({**good, **change}))
    with pytest.raises(CameraPathFault, match=r"path\.json"):
        read_camera_path(file, 5)


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path):
    with pytest.raises(CameraPathFault, match="FileNotFound"):
        read_camera_path(tmp_path / "none.json", 5)
