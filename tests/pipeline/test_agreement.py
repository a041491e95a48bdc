"""Claims about how far two sources of poses are apart: pipeline/agreement.py."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pipeline.agreement import PoseAgreement, pose_agreement
from pipeline.egoexo4d import EgoExo4D


def agreement(root: Any) -> PoseAgreement:
    """Of the root's only take."""
    dataset = EgoExo4D(root.write())
    (entry,) = dataset.takes()
    sources = dataset.pose_sources(entry)
    assert sources is not None
    return pose_agreement(sources)


def test_sources_made_of_the_same_poses_agree(root: Any) -> None:
    root.add("cmu_bike01_2")
    found = agreement(root)
    assert found.frames == 48
    assert set(found.exos) == {"cam01", "cam02", "cam03", "cam04"}
    worst = found.worst
    assert worst is not None
    assert worst.millimetres < 1e-3
    assert worst.degrees < 1e-4
    assert worst.pixels < 1e-2  # the raw focal length is found again from the undistorted one


def test_a_camera_moved_in_one_source_is_that_far_apart(root: Any) -> None:
    folder = root.add("cmu_bike01_2")
    folder.gopros[1]["tx_world_cam"] += 0.02
    folder.write()
    found = agreement(root)
    assert found.exos["cam02"].millimetres == pytest.approx(20, abs=1e-3)
    assert found.exos["cam01"].millimetres < 1e-3
    assert found.exos["cam02"].pixels > 0.3
    assert found.worst is not None
    assert found.worst.millimetres == found.exos["cam02"].millimetres


def test_a_turn_of_one_degree_is_one_degree_and_its_pixels(root: Any) -> None:
    folder = root.add("cmu_bike01_2")
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("y", 1, degrees=True).as_matrix()
    extrinsics = folder.camera_pose["aria01"]["camera_extrinsics"]
    for frame in ("7", "8"):
        pose = np.vstack([extrinsics[frame], [0, 0, 0, 1]])
        extrinsics[frame] = (turn @ pose)[:3].tolist()
    folder.write()
    found = agreement(root)
    assert found.ego_max is not None and found.ego_median is not None
    assert found.ego_max.degrees == pytest.approx(1, abs=1e-6)
    assert found.ego_max.millimetres < 1e-3
    assert found.ego_max.pixels == pytest.approx(75 * math.tan(math.radians(1)), abs=1e-6)
    assert found.ego_median.degrees < 1e-4


def test_a_camera_that_looks_the_other_way_is_infinitely_many_pixels_off(root: Any) -> None:
    folder = root.add("cmu_bike01_2")
    back = np.diag([-1.0, 1.0, -1.0, 1.0])
    for frame, pose in folder.camera_pose["aria01"]["camera_extrinsics"].items():
        turned = (back @ np.vstack([pose, [0, 0, 0, 1]]))[:3]
        folder.camera_pose["aria01"]["camera_extrinsics"][frame] = turned.tolist()
    folder.write()
    found = agreement(root)
    assert found.ego_median is not None
    assert found.ego_median.degrees == pytest.approx(180, abs=1e-3)
    assert found.ego_median.pixels == math.inf


@pytest.mark.parametrize("sources", ["A", "B"])
def test_a_take_with_one_source_has_nothing_to_compare(root: Any, sources: str) -> None:
    root.add("cmu_bike01_2", sources=sources)
    dataset = EgoExo4D(root.write())
    (entry,) = dataset.takes()
    assert dataset.pose_sources(entry) is None
