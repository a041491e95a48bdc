"""The scene and its cameras: motion that could be a person's, textures, rigs, quaternions."""

import cv2
import numpy as np
import pytest
import torch

from exo2ego.geometry.camera import rigid_from_quaternion
from pipeline.simulate.bodies import Shape, ball, box, capsule_poses, join
from pipeline.simulate.person import FOREARM, UPPER_ARM, bend
from pipeline.simulate.rig import (
    GOPRO_BEND,
    GOPRO_CENTRE,
    GOPRO_HW,
    build_rig,
    quaternions_xyzw,
    undistorted_focal_px,
)
from pipeline.simulate.scene import CATEGORIES, build_scene, eye_poses
from pipeline.simulate.textures import Palette, cloud, plain
from pipeline.simulate.traits import SPLIT_NAMES, plan_take

THREE_SECONDS = np.arange(90) / 30


@pytest.mark.parametrize("focal_px", [1749.0, 1761.275757, 1786.0])
def test_undistorted_focal_is_the_one_that_opencv_chooses(focal_px: float):
    K = np.array([[focal_px, 0, GOPRO_CENTRE[0]], [0, focal_px, GOPRO_CENTRE[1]], [0, 0, 1]])
    theirs = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
        K, np.array(GOPRO_BEND), GOPRO_HW[::-1], np.eye(3), balance=0.8
    )
    ours = undistorted_focal_px(focal_px)
    expected = np.array([[ours, 0, GOPRO_CENTRE[0]], [0, ours, GOPRO_CENTRE[1]], [0, 0, 1]])
    np.testing.assert_allclose(theirs, expected, atol=1e-3)


def test_undistorted_focal_of_a_real_take_is_the_published_one():
    assert undistorted_focal_px(1761.28) == pytest.approx(1237.12, abs=0.02)


def test_quaternions_give_back_the_rotations_that_they_came_from():
    rng = np.random.default_rng(0)
    quaternion = torch.from_numpy(rng.normal(size=(200, 4)))
    quaternion[:4] = torch.eye(4, dtype=torch.float64)
    poses = rigid_from_quaternion(quaternion, torch.zeros(200, 3, dtype=torch.float64))
    again = torch.from_numpy(quaternions_xyzw(poses[:, :3, :3].numpy()))
    back = rigid_from_quaternion(again, torch.zeros(200, 3, dtype=torch.float64))
    torch.testing.assert_close(back, poses, atol=1e-12, rtol=0)


@pytest.mark.parametrize("category", CATEGORIES)
def test_hands_and_head_move_within_33_frames_but_no_faster_than_a_person(category: str):
    scene = build_scene(category, 5, THREE_SECONDS, 3.0)
    eyes = scene.room_from_eye.numpy()
    turned = np.degrees(np.arccos(np.clip((eyes[1:, :3, 2] * eyes[:-1, :3, 2]).sum(1), -1, 1)))
    assert turned[:33].sum() > 0.5
    assert turned.max() < 15
    hands = scene.moving.room_from_body[-1, :, :3, 3]
    speed = np.sqrt((np.diff(hands, axis=0) ** 2).sum(axis=1)) * 30
    assert 0.1 < speed.max() < 4.0


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_wearer_sees_a_hand_in_most_frames(category: str):
    scene = build_scene(category, 11, THREE_SECONDS, 3.0)
    eyes = scene.room_from_eye.numpy()
    fingers = scene.moving.room_from_body[-1, :, :3, 3]
    left = scene.moving.room_from_body[-25, :, :3, 3]
    seen = np.zeros(len(eyes), dtype=bool)
    for hand in (fingers, left):
        onward = hand - eyes[:, :3, 3]
        cosine = (onward * eyes[:, :3, 2]).sum(1) / np.sqrt((onward**2).sum(1))
        seen |= cosine > np.cos(np.radians(50))
    assert seen.mean() > 0.6


def test_an_arm_reaches_its_target_with_bones_of_their_length():
    start = np.zeros((2, 3, 3))
    end = np.array([0.3, 0.2, -0.25]) + 0.03 * np.arange(18).reshape(2, 3, 3) / 18
    elbow, wrist = bend(start, end, UPPER_ARM, FOREARM, np.array([0.0, 0.0, -1.0]))
    np.testing.assert_allclose(wrist, end, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(elbow - start, axis=-1), UPPER_ARM)
    np.testing.assert_allclose(np.linalg.norm(wrist - elbow, axis=-1), FOREARM)


def test_eye_poses_at_other_instants_are_those_of_the_scene():
    times = np.arange(300) / 100
    alone = eye_poses("covid", 3, times, 3.0)
    scene = build_scene("covid", 3, times[7::10], 3.0)
    torch.testing.assert_close(alone[7::10], scene.room_from_eye, atol=1e-12, rtol=0)


def test_cover_spheres_enclose_their_bodies():
    rng = np.random.default_rng(2)
    brick = box((0.3, -0.2, 1.0), (0.2, 1.1, 0.4), 0, yaw=0.7, tilt=0.3)
    pose, size = capsule_poses(np.array([0.1, 0.2, 0.3]), np.array([0.9, 0.1, 0.2]), np.array(0.2))
    stick = ball(np.zeros(3), 0.1, 0).moved(pose[None], size[None])
    bodies = join(brick, stick)
    inside = rng.uniform(-1, 1, (2, 500, 3)) * bodies.size[:, None]
    inside[1] = np.array([0.2, 0, 0.0]) * rng.uniform(-1, 1, (500, 1))
    inside[1, :, 2] = size[2] * rng.uniform(-1, 1, 500)
    for number, cover in enumerate(bodies.covers()):
        pose = bodies.room_from_body[number]
        points = inside[number] @ pose[:3, :3].T + pose[:3, 3]
        gaps = np.linalg.norm(points[:, None] - cover[:, :3], axis=-1) - cover[:, 3]
        assert (gaps.min(axis=1) < 1e-9).all()
    assert bodies.shape.tolist() == [Shape.BOX, Shape.CAPSULE]


def test_textures_have_no_seam():
    field = cloud(np.random.default_rng(0), 8)
    inner = np.abs(np.diff(field, axis=1)).max()
    assert np.abs(field[:, 0] - field[:, -1]).max() <= inner
    assert np.abs(field[0] - field[-1]).max() <= np.abs(np.diff(field, axis=0)).max()


def test_a_texture_asked_for_twice_is_made_once():
    palette = Palette(np.random.default_rng(0))
    first = palette.add("skin", plain, (0.9, 0.7, 0.5))
    palette.add("hair", plain, (0.1, 0.1, 0.1))
    assert palette.add("skin", plain, (0.0, 0.0, 0.0)) == first
    assert palette.texels().shape == (2, 256, 256, 3)


def test_four_takes_show_all_categories_and_three_all_splits():
    plans = [plan_take(7, index, 60) for index in range(16)]
    assert {plan.category for plan in plans[:4]} == set(CATEGORIES)
    assert {plan.split for plan in plans[:3]} == set(SPLIT_NAMES)
    assert sum(plan.split == "train" for plan in plans) == 8
    for category in CATEGORIES:
        assert len({plan.split for plan in plans[:8] if plan.category == category}) == 2
    assert len({plan.take_name for plan in plans}) == len({plan.capture_name for plan in plans})


def test_cameras_stand_inside_the_room_and_face_the_person():
    for index in range(8):
        plan = plan_take(1, index, 60)
        rig = build_rig(plan, torch.eye(4, dtype=torch.float64))
        assert len(rig.exos) == len(plan.exo_ids)
        for exo in rig.exos:
            eye, forward = exo.room_from_cam[:3, 3], exo.room_from_cam[:3, 2]
            towards = torch.tensor([0.0, -0.3, 0.8], dtype=torch.float64) - eye
            assert float((towards / towards.norm() * forward).sum()) > 0.9
            assert abs(float(eye[0])) < 2.8
            assert abs(float(eye[1])) < 2.8
