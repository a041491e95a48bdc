"""Claims about the files of Aria's machine perception, on real ones: pipeline/aria.py."""

from pathlib import Path

import numpy as np
import pytest
from projectaria_tools.core import mps

from pipeline.aria import (
    calibration_times_us,
    read_ego_calibration,
    read_gopro_calibs,
    trajectory_poses,
)
from pipeline.rejects import TakeRejected

REAL = Path(__file__).parents[1] / "fixtures" / "aria"
HEADER = (REAL / "gopro_calibs.csv").read_text().splitlines()[0]
ROW = (REAL / "gopro_calibs.csv").read_text().splitlines()[1]


def test_a_real_gopro_row_is_what_projectaria_reads() -> None:
    calibrations, refused = read_gopro_calibs(REAL / "gopro_calibs.csv")
    (truth,) = mps.read_static_camera_calibrations(str(REAL / "gopro_calibs.csv"))
    calibration = calibrations["cam01"]
    assert not refused
    pose = truth.transform_world_cam.to_matrix()
    assert np.abs(calibration.world_from_cam[0] - pose).max() < 1e-6
    assert calibration.lens.hw == (2160, 3840)
    assert calibration.lens.params[:4] == (1761.275757, 1761.275757, 1920.5, 1080.5)


def test_real_trajectory_poses_are_what_projectaria_reads() -> None:
    path = REAL / "closed_loop_trajectory.csv"
    truth = mps.read_closed_loop_trajectory(str(path))
    times_us = np.array([row.tracking_timestamp.total_seconds() * 1e6 + 300 for row in truth])
    poses = trajectory_poses(path, times_us, np.eye(4))
    expected = np.stack([row.transform_world_device.to_matrix() for row in truth])
    assert len(poses) > 10
    assert np.abs(poses - expected).max() < 1e-6


def test_the_pose_of_the_camera_goes_through_its_place_on_the_device() -> None:
    path, there = REAL / "closed_loop_trajectory.csv", np.eye(4)
    there[:3, 3] = 0.1, 0.2, 0.3
    time_us = np.array([149_202_610.0])
    on_device = trajectory_poses(path, time_us, np.eye(4))[0]
    assert np.allclose(trajectory_poses(path, time_us, there)[0], on_device @ there, atol=1e-12)


def test_times_before_the_trajectory_have_no_pose() -> None:
    path = REAL / "closed_loop_trajectory.csv"
    times_us = np.array([149_202_610.0 - 25_000, 149_202_610.0 - 15_000, np.nan])
    missing = np.isnan(trajectory_poses(path, times_us, np.eye(4))).all(axis=(1, 2))
    assert missing.tolist() == [True, False, True]


def test_a_real_calibration_is_cropped_and_halved() -> None:
    calibration = read_ego_calibration(REAL / "online_calibration.jsonl")
    focal_px, _, cx, cy, *_ = calibration.lens.params
    assert calibration.lens.hw == (1408, 1408)
    assert np.isclose(focal_px, 1220.01943882295 / 2, rtol=1e-12)
    # The dataset's own rule, for integer pixel centres: (c - 0.5 - 32) / 2.
    assert np.isclose(cx - 0.5, (1461.091249679011 - 32.5) / 2, rtol=1e-12)
    assert np.isclose(cy - 0.5, (1447.087207987354 - 32.5) / 2, rtol=1e-12)
    assert np.isclose(calibration.device_from_cam[2, 3], -0.004418150827837)


def test_every_real_calibration_line_has_its_time() -> None:
    times_us = calibration_times_us(REAL / "online_calibration.jsonl")
    assert (np.diff(times_us) == 100_000).all()
    assert len(times_us) > 1


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ({-1: "0"}, "quality 0"),
        ({-1: "-1"}, "quality -1"),
        ({11: "LINEAR"}, "intrinsics_type LINEAR"),
        ({12: "nan"}, "not finite"),
        ({12: "-5"}, "positive"),
        ({2: "far"}, "far"),
        ({5: "0", 6: "0", 7: "0", 8: "0"}, "zero"),
        ({-3: "0", -2: "99"}, None),
    ],
)
def test_a_row_that_calibrates_nothing_says_why(
    tmp_path: Path, cells: dict[int, str], told: str | None
) -> None:
    row = ROW.split(",")
    for place, cell in cells.items():
        row[place] = cell
    path = tmp_path / "gopro_calibs.csv"
    path.write_text(f"{HEADER}\n{','.join(row)}\n")
    calibrations, refused = read_gopro_calibs(path)
    if told is None:  # the only row of a camera counts, whatever part of the video it is for
        assert list(calibrations) == ["cam01"]
        return
    assert not calibrations
    assert told in refused["cam01"]


def test_of_several_rows_the_one_for_the_whole_video_counts(tmp_path: Path) -> None:
    part = ROW.replace(",-1,-1,1", ",0,50,1").replace("1.691723", "9.0")
    path = tmp_path / "gopro_calibs.csv"
    path.write_text(f"{HEADER}\n{part}\n{ROW}\n")
    assert read_gopro_calibs(path)[0]["cam01"].world_from_cam[0, 0, 3] == 1.691723
    path.write_text(f"{HEADER}\n{part}\n{part}\n")
    calibrations, refused = read_gopro_calibs(path)
    assert not calibrations
    assert "2 rows" in refused["cam01"]


def test_a_table_that_is_not_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gopro_calibs.csv"
    path.write_bytes(b"\xff\xfe\x00cam_uid")
    with pytest.raises(TakeRejected, match="bad_exo_calibration"):
        read_gopro_calibs(path)
