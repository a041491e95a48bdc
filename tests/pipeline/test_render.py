"""The renderer: points fall where independent projectors put them, and short cuts cost nothing."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from exo2ego.geometry.camera import compose
from exo2ego.geometry.lenses import Pinhole
from pipeline.simulate.bodies import Bodies, Shape, ball, box, capsule, join
from pipeline.simulate.calibration import camera_pose
from pipeline.simulate.cast import cast, no_hits, tiles_with
from pipeline.simulate.clock import take_clock
from pipeline.simulate.optics import make_optics
from pipeline.simulate.render import FixedCamera, Painter
from pipeline.simulate.rig import (
    EGO_CIRCLE,
    GOPRO_BEND,
    Rig,
    build_rig,
    device_from_rgb,
    world_from_device,
)
from pipeline.simulate.scene import CATEGORIES, Scene, build_scene, eye_poses
from pipeline.simulate.traits import TakePlan, plan_take

HEIGHT, EXO_HW, EGO_HW = 448, (448, 796), (448, 448)
SMALL = (56, 100)


def planned(index: int = 2) -> tuple[TakePlan, Rig, torch.Tensor]:
    """A take of a few frames, its cameras, and the eye's poses at its frames."""
    plan = plan_take(3, index, 8)
    clock = take_clock(plan)
    eyes = eye_poses(plan.category, plan.seed, clock.row_seconds, plan.seconds)
    return plan, build_rig(plan, eyes[0]), eyes[clock.nearest_rows]


def lone_ball(scene: Scene, place: np.ndarray, radius: float) -> Scene:
    """A white ball in the dark instead of a scene's bodies."""
    texels = np.full((1, 256, 256, 3), 255, dtype=np.uint8)
    nothing = scene.moving.bodies.chosen(np.zeros(len(scene.moving.bodies), dtype=bool))
    moving = replace(
        scene.moving,
        bodies=nothing,
        room_from_body=scene.moving.room_from_body[:0],
        size=scene.moving.size[:0],
        in_ego=scene.moving.in_ego[:0],
    )
    shades, moving_shades = scene.still_shades[:0], scene.moving_shades[:0]
    return replace(
        scene, still=ball(place, radius, 0), moving=moving, texels=texels,
        still_shades=shades, moving_shades=moving_shades,
    )  # fmt: skip


def middle_of_light(picture: np.ndarray) -> np.ndarray:
    """Column and row, pixel centres at +0.5, of the lit pixels' middle."""
    rows, columns = np.nonzero(picture.max(axis=2) > 20)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5])


def small_scene(category: str, seed: int = 4) -> Scene:
    """A category's scene over one second."""
    return build_scene(category, seed, np.arange(30) / 30, 1.0)


@pytest.mark.parametrize("place", [(0.1, -0.2, 0.8), (-0.9, 0.6, 1.4), (0.9, -0.5, 0.3)])
def test_a_ball_in_an_exo_video_is_where_opencv_projects_it(place: tuple[float, float, float]):
    plan, rig, eyes = planned()
    content = camera_pose(plan, rig, eyes)
    scene = lone_ball(small_scene("covid"), np.array(place), 0.02)
    world = rig.world_from_room @ torch.tensor([*place, 1.0], dtype=torch.float64)
    for exo in rig.exos[:3]:
        extrinsics = np.array(content[exo.cam_id]["camera_extrinsics"])
        K = np.array([[exo.focal_px, 0, 1920], [0, exo.focal_px, 1080], [0, 0, 1]])
        pixels, _ = cv2.fisheye.projectPoints(
            world[:3].numpy().reshape(1, 1, 3),
            cv2.Rodrigues(extrinsics[:, :3])[0],
            extrinsics[:, 3],
            K,
            np.array(GOPRO_BEND),
        )
        expected = (pixels[0, 0] + 0.5) * np.array([796 / 3840, 448 / 2160])
        optics = make_optics(exo.lens, EXO_HW, samples=1, device="cpu")
        picture = FixedCamera(Painter(scene, "cpu"), optics, exo.room_from_cam).picture(0)
        assert np.abs(middle_of_light(picture) - expected).max() < 0.5


def test_a_ball_in_the_upright_ego_video_is_where_projectaria_puts_it():
    calibration = pytest.importorskip("projectaria_tools.core.calibration", reason="not installed")
    plan, rig, eyes = planned()
    extrinsics = camera_pose(plan, rig, eyes)[plan.ego_id]["camera_extrinsics"]["3"]
    projection = calibration.CameraProjection(
        calibration.CameraModelType.FISHEYE624, np.array(rig.ego_params)
    )
    optics = make_optics(rig.ego_lens, EGO_HW, samples=1, device="cpu", circle_per_width=EGO_CIRCLE)
    for aside, down in ((0.0, 0.1), (0.5, 0.35), (-0.6, -0.3)):
        in_eye = torch.tensor([aside, down, 1.0, 1.0], dtype=torch.float64)
        place = (eyes[3] @ in_eye)[:3]
        world = (rig.world_from_room @ torch.tensor([*place.tolist(), 1.0]).double())[:3]
        raw = np.array(extrinsics)[:, :3] @ world.numpy() + np.array(extrinsics)[:, 3]
        in_1408 = (projection.project(raw) - 0.5 - 32) / 2
        u, v = (in_1408 + 0.5) * (448 / 1408)
        scene = lone_ball(small_scene("covid"), place.numpy(), 0.015)
        picture = Painter(scene, "cpu").picture(optics, eyes[3], 0, in_ego=True)
        assert np.abs(middle_of_light(picture) - np.array([448 - v, u])).max() < 0.5


def test_camera_pose_and_device_trajectory_name_the_same_camera():
    plan, rig, eyes = planned()
    extrinsics = camera_pose(plan, rig, eyes)[plan.ego_id]["camera_extrinsics"]["2"]
    device = world_from_device(compose(rig.world_from_room, eyes))[2]
    world_from_raw = (device @ device_from_rgb()).numpy()
    expected = np.linalg.inv(world_from_raw)[:3]
    np.testing.assert_allclose(np.array(extrinsics), expected, atol=1e-9)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_fixed_cameras_kept_background_gives_what_casting_all_gives(category: str):
    _, rig, _ = planned()
    scene, exo = small_scene(category), rig.exos[1]
    painter = Painter(scene, "cpu")
    optics = make_optics(exo.lens, SMALL, samples=2, device="cpu")
    camera = FixedCamera(painter, optics, exo.room_from_cam)
    pictures = [camera.picture(frame) for frame in (0, 21)]
    for frame, kept in zip((0, 21), pictures, strict=True):
        whole = painter.picture(optics, exo.room_from_cam, frame, in_ego=False)
        np.testing.assert_array_equal(kept, whole)
    assert (pictures[0] != pictures[1]).any()


def test_the_number_of_threads_changes_no_pixel():
    scene, (_, rig, _) = small_scene("cpr"), planned()
    optics = make_optics(rig.ego_lens, (96, 96), samples=2, device="cpu", circle_per_width=0.5)
    pictures = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        pictures.append(
            Painter(scene, "cpu").picture(optics, scene.room_from_eye[5], 5, in_ego=True)
        )
    torch.set_num_threads(before)
    np.testing.assert_array_equal(pictures[0], pictures[1])


@pytest.mark.gpu
@pytest.mark.parametrize("category", CATEGORIES)
def test_a_gpu_makes_the_same_pixels_as_a_cpu(category: str):
    scene, (_, rig, _) = small_scene(category), planned()
    eye, exo = scene.room_from_eye[5], rig.exos[0]
    pictures = []
    for device in ("cpu", "cuda"):
        painter = Painter(scene, device)
        ego = make_optics(rig.ego_lens, EGO_HW, samples=2, device=device, circle_per_width=0.5)
        pictures.append(painter.picture(ego, eye, 5, in_ego=True))
        optics = make_optics(exo.lens, SMALL, samples=2, device=device)
        pictures.append(FixedCamera(painter, optics, exo.room_from_cam).picture(5))
    np.testing.assert_array_equal(pictures[0], pictures[2])
    np.testing.assert_array_equal(pictures[1], pictures[3])


def depths(bodies: Bodies, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Distances along the rays of a pinhole at the origin that looks along z, and the rays."""
    lens = Pinhole(20.0, 20.0, 12.0, 12.0, (side, side))
    optics = make_optics(lens, (side, side), samples=1, device="cpu")
    rays = optics.rays(torch.eye(4, dtype=torch.float64))
    hits = no_hits(rays)
    cast(rays, bodies, hits, 0, tiles_with(rays, bodies))
    return hits.metres.numpy().ravel(), rays.directions.flatten(1).T.double().numpy()


def test_distance_to_a_ball_is_that_of_the_quadratic():
    centre, radius = np.array([0.3, -0.2, 3.0]), 0.7
    metres, rays = depths(ball(centre, radius, 0))
    along = rays @ centre
    square = along**2 - centre @ centre + radius**2
    expected = np.where(square >= 0, along - np.sqrt(np.maximum(square, 0)), np.inf)
    edge = np.abs(square) < 1e-3
    np.testing.assert_allclose(metres[~edge], expected[~edge], rtol=1e-4)
    assert np.isfinite(metres).sum() > 40


def test_points_seen_lie_on_the_bodys_surface():
    start, end, radius = np.array([-0.6, 0.2, 2.0]), np.array([0.8, -0.3, 3.5]), 0.35
    metres, rays = depths(capsule(start, end, radius, 0))
    points = (rays * np.where(np.isfinite(metres), metres, 0)[:, None])[np.isfinite(metres)]
    part = np.clip((points - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
    gaps = np.linalg.norm(points - start - part[:, None] * (end - start), axis=1)
    np.testing.assert_allclose(gaps, radius, atol=1e-3)
    metres, rays = depths(box((0.2, 0.1, 2.5), (1.0, 0.8, 0.6), 0, yaw=0.5, tilt=0.4))
    body = box((0.2, 0.1, 2.5), (1.0, 0.8, 0.6), 0, yaw=0.5, tilt=0.4)
    points = (rays * np.where(np.isfinite(metres), metres, 0)[:, None])[np.isfinite(metres)]
    local = (points - body.room_from_body[0, :3, 3]) @ body.room_from_body[0, :3, :3]
    np.testing.assert_allclose(np.abs(local / body.size).max(axis=1), 1.0, atol=1e-4)
    assert len(points) > 40


def test_a_room_is_seen_from_inside_and_in_every_pixel():
    metres, rays = depths(box((0, 0, 0), (4.0, 6.0, 8.0), 0, shape=Shape.ROOM))
    np.testing.assert_allclose(np.abs(rays * metres[:, None] / [2, 3, 4]).max(axis=1), 1.0, 1e-5)


def test_the_nearer_body_hides_the_farther_in_any_order():
    near, far = ball(np.array([0, 0, 2.0]), 0.4, 0), box((0, 0, 4.0), (3.0, 3.0, 0.2), 0)
    first, second = depths(join(near, far))[0], depths(join(far, near))[0]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, np.fmin(depths(near)[0], depths(far)[0]))


def test_the_ego_picture_is_black_outside_its_circle_and_shows_no_head():
    scene, (_, rig, _) = small_scene("covid"), planned()
    optics = make_optics(
        rig.ego_lens, (112, 112), samples=1, device="cpu", circle_per_width=EGO_CIRCLE
    )
    picture = Painter(scene, "cpu").picture(optics, scene.room_from_eye[0], 0, in_ego=True)
    row, column = np.mgrid[:112, :112] + 0.5
    radius = np.hypot(row - 56, column - 56)
    assert not picture[radius > 58].any()
    assert (picture[radius < 45].max(axis=1) > 0).all()
    with_head = Painter(scene, "cpu").picture(optics, scene.room_from_eye[0], 0, in_ego=False)
    assert (with_head != picture).any()
