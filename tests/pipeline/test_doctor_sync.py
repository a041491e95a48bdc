"""Sync: an offset put into videos is found, and where nothing moves nothing is claimed."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from exo2ego.geometry.camera import look_at
from pipeline.doctor.marks import mark_of
from pipeline.doctor.motion import head_motion, head_path
from pipeline.doctor.sync import TOLERANCE, check_take, compare
from stores.index import CameraRow, ClipRow

HW, FRAMES, STRIDE = (128, 192), 150, 4
LENS = (150.0, 150.0, 96.0, 64.0)
EYES = {"cam01": (2.0, -1.6, 1.5), "cam02": (-1.9, -1.8, 1.7), "cam03": (0.2, -2.4, 1.6)}


def vector(*xyz: float) -> torch.Tensor:
    return torch.tensor(xyz, dtype=torch.float64)


def head(frame: int, sway: float) -> np.ndarray:
    """A head that sways without a period."""
    time = frame / 30
    x = 0.25 * np.sin(2.9 * time) + 0.12 * np.sin(7.1 * time + 1)
    z = 1.5 + 0.10 * np.sin(4.3 * time + 2)
    eye = vector(sway * x, 0.1 * sway * np.sin(5.7 * time), float(sway * (z - 1.5) + 1.5))
    return look_at(eye, vector(0.1, -2.0, 0.9), vector(0, 0, 1)).numpy()


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
        with av.open(str(folder / view.video), "w") as file:
            stream = file.add_stream("libx264", rate=30, options={"crf": "16"})
            stream.height, stream.width, stream.pix_fmt = *HW, "yuv420p"
            for frame in range(FRAMES):
                ego = replace(row.ego, world_from_cam=head(frame - late, sway)[None])
                mark = mark_of(ego, view, 0, HW, 0.14)
                assert mark is not None
                across, down = x - mark.pixel[0], y - mark.pixel[1]
                ball = np.exp(-(((across**2 + down**2) / mark.radius_px**2) ** 2))
                texture = 150 + 60 * np.sin(across / 2.5) * np.cos(down / 3)
                grey = np.clip(wall * (1 - ball) + texture * ball, 0, 255).astype(np.uint8)
                picture = np.repeat(grey[..., None], 3, axis=2)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())


@pytest.mark.parametrize("late", [-5, 0, 5])
def test_an_offset_put_into_the_exo_videos_is_found(tmp_path: Path, late: int):
    rows = clips()
    write_exos(tmp_path, rows[0], late)
    found = check_take(tmp_path, rows, 30.0)
    assert abs(found.offset_frames - late) <= 1 and found.clear
    assert found.apart == (late != 0)
    assert all(abs(offset - late) <= TOLERANCE for offset in found.views.values())


def test_nothing_is_claimed_where_nothing_moves(tmp_path: Path):
    rows = clips(sway=0.0)
    write_exos(tmp_path, rows[0], late=0, sway=0.0)
    assert not check_take(tmp_path, rows, 30.0).clear


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
    assert not found.clear and "no such file" in found.words


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
