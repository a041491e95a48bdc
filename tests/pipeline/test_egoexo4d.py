"""Claims about takes, cameras and poses, from the dataset's traps: pipeline/egoexo4d.py."""

from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from projectaria_tools.core import calibration

from exo2ego.geometry.lenses import make_lens
from pipeline.dataset import Take
from pipeline.egoexo4d import EgoExo4D
from pipeline.rejects import REASONS, TakeRejected
from stores.index import CameraRow
from stores.recipe import ClipRecipe

RECIPE = ClipRecipe()
SIDE = 256
ARIA_PARAMS = [1220.01943882295, 1461.091249679011, 1447.087207987354]
ARIA_PARAMS += [0.411035882200732, -0.456468282322496, 0.038303075146701]
ARIA_PARAMS += [1.298336637403988, -1.770471163632234, 0.654993502244781]
ARIA_PARAMS += [-7.9203062637e-05, 4.4207001233e-05]
ARIA_PARAMS += [-0.000587384169463, 0.00056439365081, 0.000515794638327, 0.000235027249453]


def load(root: Any, recipe: ClipRecipe = RECIPE) -> Take:
    """The only take of a root."""
    dataset = EgoExo4D(root.write())
    (entry,) = dataset.takes()
    return dataset.load(entry, recipe)


def why_not(root: Any) -> tuple[str, str]:
    """Reason and detail of the only take's rejection."""
    with pytest.raises(TakeRejected) as rejected:
        load(root)
    assert rejected.value.reason in REASONS
    return rejected.value.reason, rejected.value.detail


def seen_at(camera: CameraRow, points_world: np.ndarray, frame: int) -> np.ndarray:
    """Where the reader's camera puts world points in a 256 x 256 frame, centres at +0.5."""
    lens = make_lens(camera.lens, camera.params, camera.hw, camera.quarter_turns_cw)
    cam_from_world = np.linalg.inv(camera.world_from_cam[frame])
    points = points_world @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    pixels, _ = lens.resized((SIDE, SIDE)).project(torch.from_numpy(points))
    return pixels.numpy()


def points_before(cam_from_world: np.ndarray, spread: float = 0.9) -> np.ndarray:
    """World points in front of a camera, up to 40 degrees off its axis."""
    generator = np.random.default_rng(0)
    points = generator.uniform(-spread, spread, (30, 3)) * [1, 1, 0] + [0, 0, 1.2]
    world_from_cam = np.linalg.inv(cam_from_world)
    return points @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]


@pytest.mark.parametrize("sources", ["A", "B"])
def test_ego_points_land_where_projectaria_and_a_turned_image_put_them(
    root: Any, sources: str
) -> None:
    folder = root.add("cmu_bike01_2", sources=sources)
    raw_from_world = folder.raw_from_world(5)
    world = points_before(raw_from_world)
    projection = calibration.CameraProjection(
        calibration.CameraModelType.FISHEYE624, np.array(ARIA_PARAMS)
    )
    expected = []
    for point in world @ raw_from_world[:3, :3].T + raw_from_world[:3, 3]:
        sensor = projection.project(point)
        in_1408 = (sensor - 0.5 - 32) / 2
        u, v = (in_1408 + 0.5) * (SIDE / 1408) - 0.5
        expected.append((SIDE - 1 - v + 0.5, u + 0.5))
    found = seen_at(load(root).ego, world, 5)
    assert np.abs(found - np.array(expected)).max() < 0.01


@pytest.mark.parametrize("with_gopro_calibs", [True, False])
def test_exo_points_land_where_opencv_puts_them(root: Any, with_gopro_calibs: bool) -> None:
    folder = root.add("cmu_bike01_2")
    if not with_gopro_calibs:
        (folder.folder / "trajectory" / "gopro_calibs.csv").unlink()
    take = load(root)
    for exo in take.exos:
        cam_from_world = folder.cam_from_world(exo.cam_id)
        world = points_before(cam_from_world)
        pixels, _ = cv2.fisheye.projectPoints(
            world[:, None],
            cv2.Rodrigues(cam_from_world[:3, :3])[0],
            cam_from_world[:3, 3],
            folder.exo_k(exo.cam_id),
            np.array([0.036902, 0.057131, -0.057154, 0.018458]),
        )
        expected = (pixels[:, 0] + 0.5) * [SIDE / 3840, SIDE / 2160]
        assert np.abs(seen_at(exo, world, 0) - expected).max() < 0.01


def test_camera_pose_and_trajectory_give_the_same_ego_poses(root: Any) -> None:
    annotated = root.add("cmu_bike01_2", sources="A")
    by_annotation = load(root).ego.world_from_cam
    annotated.camera_pose_path.unlink()
    annotated.sources = "B"
    annotated.write()
    by_trajectory = load(root).ego.world_from_cam
    assert np.abs(by_annotation[:-2] - by_trajectory[:-2]).max() < 1e-6
    assert np.isnan(by_annotation[-2:]).all()
    assert np.isfinite(by_trajectory[-2:]).all()


def test_calibration_lines_time_the_frames_where_timesync_is_missing(root: Any) -> None:
    folder = root.add("cmu_bike01_2", sources="B")
    with_timesync = load(root).ego.world_from_cam
    (folder.root / "captures" / folder.capture / "timesync.csv").unlink()
    assert np.array_equal(load(root).ego.world_from_cam, with_timesync)
    folder.calibration_lines.pop()
    folder.timesync = [{"other": 1}]
    folder.write()
    assert why_not(root)[0] == "no_frame_times"


def test_a_frame_without_a_time_has_no_pose(root: Any) -> None:
    folder = root.add("cmu_bike01_2", sources="B")
    folder.timesync[7 + 11]["aria01_214-1_capture_timestamp_ns"] = ""
    folder.write()
    missing = np.isnan(load(root).ego.world_from_cam).all(axis=(1, 2))
    assert np.flatnonzero(missing).tolist() == [11]


def test_a_frame_far_from_every_trajectory_row_has_no_pose(root: Any) -> None:
    folder = root.add("cmu_bike01_2", sources="B")
    until_us = folder.frame_us[40] - 25_000
    folder.trajectory = [
        row for row in folder.trajectory if row["tracking_timestamp_us"] < until_us
    ]
    folder.write()
    missing = np.isnan(load(root).ego.world_from_cam).all(axis=(1, 2))
    assert np.flatnonzero(missing).tolist() == list(range(40, 50))


def test_the_upright_camera_sees_the_worlds_up_on_top(root: Any) -> None:
    folder = root.add("cmu_bike01_2")
    sideways = np.linalg.inv(folder.raw_from_world(0))
    upright = load(root).ego.world_from_cam[0]
    assert np.allclose(upright[:3, 1], sideways[:3, 0], atol=1e-12)  # upright down = raw right
    assert np.allclose(upright[:3, 0], -sideways[:3, 1], atol=1e-12)  # upright right = raw up
    assert np.allclose(upright[:, 2:], sideways[:, 2:], atol=1e-12)


def test_full_size_videos_serve_where_there_are_no_small_copies(root: Any) -> None:
    folder = root.add("cmu_bike01_2")
    small = load(root)
    for file in folder.videos.iterdir():
        file.rename(folder.videos.parents[1] / file.name)
    full = load(root)
    assert full.ego.video == "takes/cmu_bike01_2/frame_aligned_videos/aria01_214-1.mp4"
    assert small.ego.video == (
        "takes/cmu_bike01_2/frame_aligned_videos/downscaled/448/aria01_214-1.mp4"
    )
    assert full.exos[0].params == small.exos[0].params


def test_k_is_scaled_by_each_axis_of_the_video_and_shifted_to_the_projects_centres(
    root: Any,
) -> None:
    folder = root.add("cmu_bike01_2")
    exo = load(root).exos[1]
    focal_px = folder.focal_px("cam02")
    expected = (focal_px * 64 / 3840, focal_px * 36 / 2160, 1920.5 * 64 / 3840, 1080.5 * 36 / 2160)
    assert np.allclose(exo.params[:4], expected, rtol=1e-12)


def test_calibration_of_the_1408_image_is_told_by_its_centre(root: Any) -> None:
    folder = root.add("cmu_bike01_2")
    expected = load(root).ego.params
    numbers = folder.calibration_lines[0]["CameraCalibrations"][1]["Projection"]["Params"]
    numbers[:3] = numbers[0] / 2, (numbers[1] - 32.5) / 2, (numbers[2] - 32.5) / 2
    folder.write()
    assert np.allclose(load(root).ego.params, expected, rtol=1e-12)


def test_a_camera_with_a_bad_row_counts_if_camera_pose_has_it(root: Any) -> None:
    folder = root.add("cmu_bike01_2")
    folder.gopros[1] |= {"quality": 0, "tx_world_cam": 99.0, "intrinsics_0": 1.0}
    folder.write()
    exo = load(root).exos[1]
    truth = np.linalg.inv(folder.cam_from_world("cam02"))
    assert np.allclose(exo.world_from_cam[0], truth, atol=1e-9)
    assert abs(exo.params[0] * 3840 / 64 - folder.focal_px("cam02")) < 1e-3


def test_task_bounds_become_whole_frames_inside_the_video(root: Any) -> None:
    folder = root.add("cmu_bike01_2")
    folder.entry |= {"task_start_sec": 0.11, "task_end_sec": 99.0}
    assert load(root).task_frames == (4, 50)
    folder.entry |= {"task_start_sec": None, "task_end_sec": 1.0}
    assert load(root).task_frames == (0, 31)
    folder.entry |= {"task_end_sec": None}
    assert load(root).task_frames is None


def test_a_take_carries_its_names(root: Any) -> None:
    root.add("utokyo_pcr_2001_31_8", category="covid", split="test")
    take = asdict(load(root))
    names = ("take_name", "take_uid", "capture_name", "participant_uid", "category", "split")
    assert [take[name] for name in names] == [
        "utokyo_pcr_2001_31_8",
        "uid-utokyo_pcr_2001_31_8",
        "utokyo_pcr_2001_31",
        "387",
        "covid",
        "test",
    ]


def test_downloads_with_a_folder_too_many_are_read(root: Any) -> None:
    folder = root.add("cmu_bike01_2", sources="B")
    (folder.root / "takes").rename(folder.root / "moved")
    (folder.root / "takes").mkdir()
    (folder.root / "moved").rename(folder.root / "takes" / "takes")
    assert load(root).ego.video.startswith("takes/takes/cmu_bike01_2/")


def test_no_pose_source_at_all_is_told(root: Any) -> None:
    root.add("cmu_bike01_2", sources="")
    assert why_not(root)[0] == "no_ego_poses"


def test_timesync_rows_must_match_the_videos_frames(root: Any) -> None:
    folder = root.add("cmu_bike01_2", sources="B")
    folder.entry["timesync_end_idx"] += 1
    assert why_not(root)[0] == "bad_timesync"


def test_camera_pose_of_another_split_folder_is_found(root: Any) -> None:
    folder = root.add("cmu_bike01_2", sources="A")
    folder.camera_pose_path.parents[1].rename(folder.camera_pose_path.parents[2] / "val")
    assert np.isfinite(load(root).ego.world_from_cam[:-2]).all()
