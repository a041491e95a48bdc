"""Contact sheets: marks where an independent projection puts them, and only the frames needed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import decord
import numpy as np
import pytest
import torch
from PIL import Image

from exo2ego.geometry.camera import look_at
from pipeline.doctor.marks import HEAD_METRES, mark_of, share_in_view
from pipeline.doctor.sheet import draw_marks, draw_sheet, moments, panel_marks
from stores.index import CameraRow, ClipRow

EXO_PARAMS = (1755.0, 1761.0, 1931.5, 1068.5, 0.036902, 0.057131, -0.057154, 0.018458)
EXO_HW, EGO_HW, PANEL_HW = (2160, 3840), (512, 512), (216, 384)
VIDEO_HW = {"aria01": (48, 48), "cam01": (36, 64), "cam02": (36, 64)}


def pose(eye: tuple[float, float, float], target: tuple[float, float, float]) -> np.ndarray:
    points = [torch.tensor(point, dtype=torch.float64) for point in (eye, target, (0, 0, 1))]
    return look_at(*points).numpy()


def exo(cam_id: str, eye: tuple[float, float, float]) -> CameraRow:
    looks = pose(eye, (0.1, -0.2, 1.1))[None]
    return CameraRow(cam_id, f"{cam_id}.mp4", "kannala_brandt", EXO_PARAMS, EXO_HW, 0, looks)


def clip(first: int, frames: int = 9) -> ClipRow:
    """A wearer who walks past two cameras and looks at the first."""
    indices = tuple(range(first, first + 4 * frames, 4))
    heads = [pose((0.02 * frame, 0.3, 1.6), (2.4, -1.7, 1.5)) for frame in indices]
    lens = (150.0, 151.0, 256.0, 255.0)
    ego = CameraRow("aria01", "aria01.mp4", "pinhole", lens, EGO_HW, 0, np.stack(heads))
    exos = (exo("cam01", (2.4, -1.7, 1.5)), exo("cam02", (-2.2, -1.5, 1.7)))
    words = ("take_a", "uid", "capture", "7", "bike", "train")
    return ClipRow(f"take_a-f{first:06d}", *words, indices, ego, exos, ())


def middle_of_ink(marks: list, hw: tuple[int, int]) -> np.ndarray:
    picture = Image.new("RGB", (hw[1], hw[0]))
    draw_marks(picture, [replace(mark, name="") for mark in marks], (255, 45, 110))
    red = np.asarray(picture)[..., 0].astype(float)
    rows, columns = np.mgrid[: hw[0], : hw[1]] + 0.5
    return np.array([(red * columns).sum(), (red * rows).sum()]) / red.sum()


def by_opencv(row: ClipRow, view: CameraRow, place: int, hw: tuple[int, int]) -> np.ndarray:
    """Where OpenCV puts the ego camera, in panel pixels with borders at 0."""
    fx, fy, cx, cy, *bend = EXO_PARAMS
    k = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
    cam_from_world = np.linalg.inv(view.world_from_cam[0])
    turn, _ = cv2.Rodrigues(cam_from_world[:3, :3])
    point = row.ego.world_from_cam[place][:3, 3].reshape(1, 1, 3)
    pixel, _ = cv2.fisheye.projectPoints(point, turn, cam_from_world[:3, 3], k, np.array(bend))
    return (pixel.ravel() + 0.5) * (hw[1] / EXO_HW[1], hw[0] / EXO_HW[0])


@pytest.fixture
def folder(tmp_path: Path, make_mp4: Callable[..., bytes]) -> Path:
    for cam_id, hw in VIDEO_HW.items():
        (tmp_path / f"{cam_id}.mp4").write_bytes(make_mp4(hw, 150))
    return tmp_path


@pytest.mark.parametrize("place", [0, 5])
@pytest.mark.parametrize("view", [0, 1])
def test_the_drawn_cross_is_where_opencv_projects_the_ego_camera(view: int, place: int):
    row = clip(20)
    moment = replace(moments([row])[0], place=place)
    (marks,) = panel_marks([moment], row.present[view].cam_id, PANEL_HW, is_ego=False)
    drawn = middle_of_ink(marks, PANEL_HW)
    assert np.abs(drawn - by_opencv(row, row.present[view], place, PANEL_HW)).max() < 1


def test_a_camera_that_the_wearer_looks_at_is_drawn_in_the_middle_of_the_ego_view():
    row = clip(20)
    found = mark_of(row.present[0], row.ego, 3, EGO_HW, 0.0)
    assert found is not None and found.name == "cam01"
    assert np.abs(np.array(found.pixel) - (256, 255)).max() < 1e-6


def test_a_mirrored_pose_puts_the_mark_elsewhere():
    row = clip(20)
    flipped = row.ego.world_from_cam * np.array([1, 1, 1, -1.0])[:, None]  # the last row keeps 0
    flipped[:, 3] = (0, 0, 0, 1)
    flipped[:, 1, 3] *= -1
    wrong = replace(row, ego=replace(row.ego, world_from_cam=flipped))
    right, moved = (
        mark_of(each.ego, each.present[0], 0, PANEL_HW, HEAD_METRES) for each in (row, wrong)
    )
    assert right is not None and moved is not None
    assert np.hypot(*np.subtract(right.pixel, moved.pixel)) > 3 * right.radius_px


def test_the_wearer_is_in_the_pictures_of_cameras_that_look_there_and_no_others():
    row = clip(20)
    about = np.diag([-1.0, 1, -1, 1])
    turned_round = [
        replace(view, world_from_cam=view.world_from_cam @ about) for view in row.present
    ]
    assert share_in_view([row]) == 1
    assert share_in_view([replace(row, exos=tuple(turned_round))]) == 0


def test_what_is_behind_the_camera_or_has_no_pose_is_not_drawn():
    row = clip(20)
    behind = replace(row.ego, world_from_cam=np.stack([pose((5.0, -4.0, 1.6), (9, -9, 1))]))
    nowhere = replace(row.ego, world_from_cam=np.full((1, 4, 4), np.nan))
    assert mark_of(behind, row.present[0], 0, PANEL_HW, HEAD_METRES) is None
    assert mark_of(nowhere, row.present[0], 0, PANEL_HW, HEAD_METRES) is None


def test_a_turned_lens_is_marked_in_the_frames_as_stored():
    row = clip(20)
    portrait = replace(row.present[0], quarter_turns_cw=1)
    found = mark_of(row.ego, portrait, 0, (384, 216), HEAD_METRES)
    upright = mark_of(row.ego, row.present[0], 0, PANEL_HW, HEAD_METRES)
    assert found is not None and upright is not None
    assert found.pixel != upright.pixel
    assert 0 <= found.pixel[0] <= 216 and 0 <= found.pixel[1] <= 384


def test_moments_are_the_first_frames_of_the_first_the_middle_and_the_last_clip():
    rows = [clip(first) for first in (0, 12, 24, 36, 48)]
    assert [moment.frame for moment in moments(rows)] == [0, 24, 48]
    assert [moment.frame for moment in moments(rows[:1])] == [0, 16, 32]
    assert [moment.frame for moment in moments([clip(7, frames=1)])] == [7]


def test_a_sheet_reads_three_frames_of_a_view(folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[list[int]] = []

    class Counting(decord.VideoReader):
        def get_batch(self, indices: list[int]):
            asked.append(list(indices))
            return super().get_batch(indices)

    monkeypatch.setattr(decord, "VideoReader", Counting)
    draw_sheet(folder, [clip(first) for first in (0, 36, 72)])
    assert asked == [[0, 36, 72]] * 3


def test_a_sheet_shows_every_view_and_says_which_video_is_missing(folder: Path):
    rows = [clip(first) for first in (0, 36, 72)]
    whole = draw_sheet(folder, rows)
    (folder / "cam02.mp4").unlink()
    holey = draw_sheet(folder, rows)
    assert whole.width > PANEL_HW[0] + 2 * PANEL_HW[1]
    assert holey.height == whole.height and holey.width < whole.width


def test_an_absent_view_and_an_ego_without_video_are_left_blank(folder: Path):
    row = clip(0)
    partial = replace(row, ego=replace(row.ego, video=""), exos=(row.exos[0], None))
    assert draw_sheet(folder, [partial]).height == draw_sheet(folder, [row]).height
