"""Claims about windows of frames: pipeline/clips.py."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.clips import pose_gaps, windows
from pipeline.dataset import Take
from stores.index import CameraRow, ClipIndex, read_index, write_index
from stores.recipe import ClipRecipe

RECIPE = ClipRecipe()


def _camera(cam_id: str, poses: np.ndarray) -> CameraRow:
    lens = ("pinhole", (20.0, 20.0, 32.0, 18.0), (36, 64), 0)
    return CameraRow(cam_id, f"takes/t/{cam_id}.mp4", *lens, poses)


def _take(
    frame_count: int,
    *,
    task_frames: tuple[int, int] | None = None,
    split: str = "test",
    unposed: tuple[int, ...] = (),
) -> Take:
    poses = np.tile(np.eye(4), (frame_count, 1, 1))
    poses[:, 0, 3] = np.arange(frame_count)
    poses[[frame_count - 2, frame_count - 1, *unposed]] = np.nan
    exos = tuple(_camera(f"cam0{place}", np.eye(4)[None]) for place in (1, 2, 3, 4))
    ids = ("bike_1", "uid", "bike", "387", "bike", split)
    return Take(*ids, 30.0, frame_count, _camera("aria01", poses), exos, task_frames)


def test_nine_frames_four_apart_span_33() -> None:
    first, second, *_ = windows(_take(120), RECIPE)
    assert first.frames == tuple(range(0, 33, 4))
    assert second.frames == tuple(range(36, 69, 4))
    assert (first.clip_id, second.clip_id) == ("bike_1-f000000", "bike_1-f000036")


@pytest.mark.parametrize(("frame_count", "clips"), [(34, 0), (35, 1), (70, 1), (71, 2)])
def test_the_last_two_frames_have_no_pose_and_bear_no_clip(frame_count: int, clips: int) -> None:
    assert len(windows(_take(frame_count), RECIPE)) == clips


def test_windows_stay_inside_the_task() -> None:
    clips = windows(_take(200, task_frames=(17, 120)), RECIPE)
    assert [clip.frames[0] for clip in clips] == [17, 53]
    assert clips[-1].frames[-1] < 120


def test_a_gap_spoils_only_the_windows_that_sample_it_and_is_counted() -> None:
    take = _take(200, unposed=(40, 73))
    kept = [clip.frames[0] for clip in windows(take, RECIPE)]
    assert kept == [0, 72, 108, 144]
    (reject,) = pose_gaps(take, RECIPE)
    assert (reject.clip_id, reject.reason) == ("bike_1-f000036", "missing_pose")
    assert "[40]" in reject.detail


def test_every_frame_has_its_own_ego_pose_and_exos_have_one() -> None:
    clip = windows(_take(120), RECIPE)[1]
    assert clip.ego.world_from_cam[:, 0, 3].tolist() == list(clip.frames)
    assert all(exo.world_from_cam.shape == (1, 4, 4) for exo in clip.exos)


def test_the_central_window_of_a_test_take_is_test_1() -> None:
    clips = windows(_take(36 * 5 + 2), RECIPE)
    assert [clip.frames[0] for clip in clips if "test-1" in clip.sets] == [72]
    assert all("test-all" in clip.sets for clip in clips)


def test_a_gap_in_the_middle_moves_the_central_window() -> None:
    clips = windows(_take(36 * 5 + 2, unposed=(76,)), RECIPE)
    assert [clip.frames[0] for clip in clips if "test-1" in clip.sets] == [108]


def test_training_clips_belong_to_no_evaluation_set() -> None:
    assert {clip.sets for clip in windows(_take(120, split="train"), RECIPE)} == {()}


def test_window_step_and_stride_are_the_recipes() -> None:
    recipe = ClipRecipe(frames=5, stride=2, window_step=7)
    clips = windows(_take(32, split="val"), recipe)
    assert [clip.frames for clip in clips][:2] == [(0, 2, 4, 6, 8), (7, 9, 11, 13, 15)]
    assert clips[-1].frames[-1] == 29


def test_absent_views_come_back_absent_from_the_index(tmp_path: Path) -> None:
    recipe = ClipRecipe(views=6, min_views=4)
    clips = windows(_take(120), recipe)
    index = ClipIndex("/data", recipe, tuple(clips))
    write_index(tmp_path / "clips.parquet", index)
    back = read_index(tmp_path / "clips.parquet")
    assert back.digest == index.digest
    for row in back.rows:
        assert row.exos[4:] == (None, None)
        assert [exo.cam_id for exo in row.present] == ["cam01", "cam02", "cam03", "cam04"]


def test_ten_source_frames_apart_is_three_a_second() -> None:
    first, second = windows(_take(180), ClipRecipe.sampled(3.0))
    assert first.frames == tuple(range(0, 81, 10))
    assert second.frames[0] == 90
