"""Laws of rigid poses: inverse, chain, quaternions, and the faults that a pose can have."""

import math

import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.testing import assert_close

from exo2ego.geometry.camera import (
    CameraError,
    check_rigid,
    compose,
    invert_rigid,
    look_at,
    rigid_from_quaternion,
    rotate_directions,
    transform_points,
)


def poses(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    quaternions = torch.randn(count, 4, dtype=torch.float64, generator=generator)
    metres = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    return rigid_from_quaternion(quaternions, metres)


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_inverting_twice_gives_the_pose_back():
    assert_close(invert_rigid(invert_rigid(poses(7, 0))), poses(7, 0), rtol=0, atol=1e-14)


def test_a_pose_after_its_inverse_is_the_identity():
    b_from_a = invert_rigid(poses(7, 0))
    identity = torch.eye(4, dtype=torch.float64).expand(7, 4, 4)
    assert_close(compose(poses(7, 0), b_from_a), identity, rtol=0, atol=1e-14)


def test_a_chain_does_not_depend_on_where_it_is_bracketed():
    a_from_b, b_from_c, c_from_d = poses(5, 0), poses(5, 1), poses(5, 2)
    left = compose(compose(a_from_b, b_from_c), c_from_d)
    assert_close(left, compose(a_from_b, compose(b_from_c, c_from_d)), rtol=0, atol=1e-13)


def test_a_chain_is_the_matrix_product():
    expected = poses(6, 0).numpy() @ poses(6, 1).numpy()
    assert_close(compose(poses(6, 0), poses(6, 1)).numpy(), expected, rtol=0, atol=1e-14)


def test_a_chain_moves_points_as_its_links_do():
    points_c = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    a_from_b, b_from_c = poses(5, 0), poses(5, 1)
    by_links = transform_points(a_from_b, transform_points(b_from_c, points_c))
    assert_close(transform_points(compose(a_from_b, b_from_c), points_c), by_links)


def test_poses_and_points_broadcast_against_each_other():
    points_b = torch.randn(6, 1, 3, dtype=torch.float64)
    together = transform_points(poses(4, 0), points_b)
    assert together.shape == (6, 4, 3)
    assert torch.equal(together[5, 3], transform_points(poses(4, 0)[3], points_b[5, 0]))
    assert torch.equal(
        compose(poses(1, 1)[0], poses(4, 0))[2], compose(poses(1, 1)[0], poses(4, 0)[2])
    )


def test_directions_are_turned_but_not_moved():
    directions_b = torch.randn(5, 3, dtype=torch.float64)
    moved = transform_points(poses(5, 0), directions_b) - poses(5, 0)[:, :3, 3]
    assert_close(rotate_directions(poses(5, 0), directions_b), moved, rtol=0, atol=1e-14)


def test_one_pose_has_the_same_bits_alone_and_in_a_batch():
    many, others = poses(33, 0), poses(33, 1)
    for index in (0, 17, 32):
        alone = compose(invert_rigid(many[index]), others[index])
        assert torch.equal(alone, compose(invert_rigid(many), others)[index])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-10, 10), min_size=4, max_size=4).filter(lambda q: max(map(abs, q)) > 0.1)
)
def test_quaternions_mean_what_scipy_means(quaternion_xyzw: list[float]):
    pose = rigid_from_quaternion(vector(*quaternion_xyzw), vector(1, 2, 3))
    expected = Rotation.from_quat(quaternion_xyzw).as_matrix()
    assert_close(pose[:3, :3].numpy(), expected, rtol=0, atol=1e-14)
    assert torch.equal(pose[:3, 3], vector(1, 2, 3))
    check_rigid(pose, "a pose of a quaternion")


@pytest.mark.parametrize(
    ("quaternion_xyzw", "metres"),
    [
        ((0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((math.nan, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0, 1.0), (0.0, math.inf, 0.0)),
    ],
)
def test_a_quaternion_that_names_no_rotation_is_refused(quaternion_xyzw, metres):
    with pytest.raises(CameraError, match="quaternion"):
        rigid_from_quaternion(vector(*quaternion_xyzw), vector(*metres))


FAULTS = {
    "NaN": lambda pose: pose * math.nan,
    "not orthonormal": lambda pose: torch.diag(vector(1, 1, 1.01, 1)) @ pose,
    "mirrored": lambda pose: torch.diag(vector(1, 1, -1, 1)) @ pose,
    "last row": lambda pose: torch.cat([pose[:3], vector(0, 0, 1, 1)[None]]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_pose_is_named_with_its_place_and_fault(fault: str):
    batch = rearrange(poses(6, 0), "(a b) i j -> a b i j", a=2)
    batch[1, 2] = FAULTS[fault](batch[1, 2])
    with pytest.raises(CameraError, match=rf"cam03: pose \(1, 2\) .*{fault}"):
        check_rigid(batch, "cam03")


def test_a_flattened_rotation_is_refused():
    singular = torch.diag(vector(1, 1, 0, 1))
    with pytest.raises(CameraError, match="not orthonormal"):
        check_rigid(singular, "ego")


def test_poses_as_files_round_them_are_accepted():
    check_rigid((poses(9, 0) * 1e4).round() / 1e4, "a pose with four decimals")
    check_rigid(poses(9, 0).to(torch.float32), "a pose in single precision")


def test_a_camera_looks_at_its_target_with_up_upwards():
    eye, target, up = vector(2, -1, 1.5), vector(0.5, 1, 0), vector(0, 0, 1)
    world_from_cam = look_at(eye, target, up)
    check_rigid(world_from_cam, "look_at")
    target_cam = transform_points(invert_rigid(world_from_cam), target)
    assert_close(target_cam, vector(0, 0, np.linalg.norm([1.5, 2, 1.5])), rtol=0, atol=1e-14)
    right, down, _ = rotate_directions(invert_rigid(world_from_cam), up).tolist()
    assert abs(right) < 1e-14 and down < 0


@pytest.mark.parametrize("target", [(0.0, 0.0, 0.0), (0.0, 0.0, 5.0)])
def test_looking_nowhere_or_straight_up_is_refused(target):
    with pytest.raises(CameraError, match="look_at"):
        look_at(vector(0, 0, 0), vector(*target), vector(0, 0, 1))
