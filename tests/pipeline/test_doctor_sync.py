"""Sync: an offset put into videos is found, and where nothing moves nothing is claimed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from exo2ego.geometry.camera import look_at
from exo2ego.geometry.lenses import pixel_centres
from pipeline.doctor import sync
from pipeline.doctor.marks import lens_of, mark_of
from pipeline.doctor.motion import head_motion, head_path
from pipeline.doctor.sync import TOLERANCE, check_take, compare
from stores.index import CameraRow, ClipRow

HW, FRAMES, STRIDE = (128, 192), 150, 4
LENS = (150.0, 150.0, 96.0, 64.0)
EYES = {"cam01": (2.0, -1.6, 1.5), "cam02": (-1.9, -1.8, 1.7), "cam03": (0.2, -2.4, 1.6)}


def vector(*xyz: float) -> torch.Tensor:
    return torch.tensor(xyz, dtype=torch.float64)


def head(frame: int, sway: float) -> np.ndarray:
    """A head that sways and looks about without a period."""
    time = frame / 30
    x = 0.25 * np.sin(2.9 * time) + 0.12 * np.sin(7.1 * time + 1)
    z = 1.5 + 0.10 * np.sin(4.3 * time + 2)
    eye = vector(sway * x, 0.1 * sway * np.sin(5.7 * time), float(sway * (z - 1.5) + 1.5))
    aside, up = 0.5 * np.sin(3.3 * time + 0.5), 0.3 * np.sin(6.1 * time)
    target = vector(0.1 + sway * aside, -2.0, 0.9 + sway * up)
    return look_at(eye, target, vector(0, 0, 1)).numpy()


def clips(sway: float = 1.0) -> list[ClipRow]:
    exos = tuple(
        CameraRow(cam_id, f"{cam_id}.mp4", "pinhole", LENS, HW, 0, look_from(eye)[None])
        for cam_id, eye in EYES.items()
    )
    rows = []
    for first in range(0, FRAMES - 9 * STRIDE, 9 * STRIDE):
        frames = tuple(range(first, first + 9 * STRIDE, STRIDE))
        poses = np.stack([head(frame, sway) for frame in frames])
        ego = CameraRow("aria01", "aria01.mp4", "pinhole", LENS, HW, 0, poses)
        words = (f"take-f{first:06d}", "take", "uid", "capture", "7", "bike", "train")
        rows.append(ClipRow(*words, frames, ego, exos, ()))
    return rows


def look_from(eye: tuple[float, float, float]) -> np.ndarray:
    return look_at(vector(*eye), vector(0, 0, 1.4), vector(0, 0, 1)).numpy()


def write_exos(folder: Path, row: ClipRow, late: int, sway: float = 1.0) -> None:
    """Videos of a textured ball where the head is, `late` frames behind, before a plain pattern."""
    rng = np.random.default_rng(5)
    wall = 90 + 8 * np.kron(rng.standard_normal((16, 24)), np.ones((8, 8)))
    y, x = np.mgrid[: HW[0], : HW[1]] + 0.5
    for view in row.present:
        pictures = []
        for frame in range(FRAMES):
            ego = replace(row.ego, world_from_cam=head(frame - late, sway)[None])
            mark = mark_of(ego, view, 0, HW, 0.14)
            assert mark is not None
            across, down = x - mark.pixel[0], y - mark.pixel[1]
            ball = np.exp(-(((across**2 + down**2) / mark.radius_px**2) ** 2))
            texture = 150 + 60 * np.sin(across / 2.5) * np.cos(down / 3)
            pictures.append(wall * (1 - ball) + texture * ball)
        write_grey(folder / view.video, pictures)


def write_ego(folder: Path, row: ClipRow, late: int, sway: float = 1.0) -> None:
    """A video of a patterned wall as the head sees it, `late` frames behind its poses."""
    directions, _ = lens_of(row.ego, HW).unproject(pixel_centres(HW))
    pictures = []
    for frame in range(FRAMES):
        pose = head(frame - late, sway)
        x, y, z = np.moveaxis(directions.numpy() @ pose[:3, :3].T, -1, 0)
        reach = (-2.6 - pose[1, 3]) / y
        x, z = pose[0, 3] + reach * x, pose[2, 3] + reach * z
        grey = 120 + 40 * np.sin(11 * x + 3 * z) + 40 * np.sin(9 * z - 2 * x) + 20 * np.sin(23 * x)
        pictures.append(grey)
    write_grey(folder / row.ego.video, pictures)


def write_grey(path: Path, pictures: Sequence[np.ndarray]) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = *HW, "yuv420p"
        for picture in pictures:
            grey = np.repeat(np.clip(picture, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        file.mux(stream.encode())


@pytest.mark.parametrize("late", [-5, 0, 5])
def test_an_offset_put_into_the_exo_videos_is_found(tmp_path: Path, late: int):
    rows = clips()
    write_exos(tmp_path, rows[0], late)
    found = check_take(tmp_path, rows, 30.0)
    assert abs(found.exo.offset_frames - late) <= 1 and found.exo.clear
    assert found.apart == (late != 0)
    assert all(abs(offset - late) <= TOLERANCE for offset in found.views.values())


@pytest.mark.parametrize("late", [-5, 0, 5])
def test_an_offset_put_into_the_ego_video_is_found(tmp_path: Path, late: int):
    rows = clips()
    write_ego(tmp_path, rows[0], late)
    found = check_take(tmp_path, rows, 30.0)
    assert found.ego is not None and found.ego.clear
    assert abs(found.ego.offset_frames - late) <= 1
    assert found.apart == (late != 0)
    assert found.views == {"aria01": found.ego.offset_frames}


def test_the_ego_video_has_no_say_in_the_exo_offset(tmp_path: Path):
    rows = clips()
    write_exos(tmp_path, rows[0], late=5)
    alone = check_take(tmp_path, rows, 30.0)
    write_ego(tmp_path, rows[0], late=-5)
    both = check_take(tmp_path, rows, 30.0)
    assert alone.exo == both.exo and alone.exo_after_ego is None
    assert both.exo_after_ego is not None and abs(both.exo_after_ego - 10) <= TOLERANCE


def test_without_an_ego_video_none_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def never(*_: object) -> None:
        raise AssertionError("the ego video is looked at")

    monkeypatch.setattr(sync, "gaze_motion", never)
    rows = [replace(row, ego=replace(row.ego, video="")) for row in clips()]
    write_exos(tmp_path, rows[0], late=5)
    found = check_take(tmp_path, rows, 30.0)
    assert found.ego is None and found.apart and found.words.startswith("exo ")


def test_nothing_is_claimed_where_nothing_moves(tmp_path: Path):
    rows = clips(sway=0.0)
    write_exos(tmp_path, rows[0], late=0, sway=0.0)
    write_ego(tmp_path, rows[0], late=0, sway=0.0)
    found = check_take(tmp_path, rows, 30.0)
    assert found.ego is not None and found.words == "not clear"


def test_nothing_is_claimed_of_videos_that_show_something_else(tmp_path: Path):
    rows = clips()
    write_exos(tmp_path, rows[0], late=0)
    path = head_path(rows, FRAMES)
    motions = [head_motion(tmp_path, view, path, HW) for view in rows[0].present]
    backwards = [
        replace(motion, seen_px=motion.seen_px[::-1].copy(), change=motion.change[::-1].copy())
        for motion in motions
    ]
    assert compare(motions).clear and not compare(backwards).clear


def test_a_missing_video_is_told_and_nothing_raised(tmp_path: Path):
    found = check_take(tmp_path, clips(), 30.0)
    assert not found.exo.clear and "no such file" in found.lines[0]


def test_the_path_between_known_frames_is_where_the_head_was():
    path = head_path(clips(), FRAMES)
    true = np.stack([head(frame, 1.0)[:3, 3] for frame in path.frames])
    assert np.abs(path.centres_world - true)[STRIDE:-STRIDE].max() < 0.003


def test_the_path_has_holes_where_clips_are_far_apart():
    rows = clips()
    path = head_path([rows[0], rows[-1]], FRAMES)
    between = range(rows[0].frames[-1] + 1, rows[-1].frames[0])
    assert np.isnan(path.centres_world[between.start : between.stop]).all()
    assert np.isfinite(path.centres_world[list(rows[0].frames)]).all()


def test_no_more_than_the_asked_stretch_around_the_middle_is_looked_at():
    assert head_path(clips(), 40).frames == range(50, 90)
