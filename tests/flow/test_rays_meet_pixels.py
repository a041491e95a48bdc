"""One point of a simulated scene, from files to the store: rays and lenses put it on its pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from exo2ego.geometry.camera import invert_rigid, transform_points
from exo2ego.geometry.clip_points import align_depths, clip_align_points
from exo2ego.geometry.lenses import make_lens
from pipeline.encode import encode_latents
from pipeline.encode_plan import Wish
from pipeline.ingest import ingest
from pipeline.simulate.bodies import ball
from pipeline.simulate.clock import take_clock
from pipeline.simulate.film import Filming, film
from pipeline.simulate.rig import build_rig
from pipeline.simulate.root import SMALL_VIDEOS, simulate_root
from pipeline.simulate.scene import build_scene, eye_poses
from pipeline.simulate.traits import plan_take
from stores.index import ClipRecipe
from stores.reading import Store
from stores.zarr_store import open_store

SEED, FRAMES, LENGTH, SIZE = 3, 5, 30, 256
BALL_METRES = 0.02
IN_FIRST_EYE = (0.12, 0.05, 0.75)
"""Right of, below and in front of the wearer's first gaze."""


def middle_of_light(picture: np.ndarray) -> np.ndarray:
    """(x, y) of the light's centre, pixel centres at +0.5."""
    light = picture.astype(np.float64).max(axis=2)
    light[light < 40] = 0  # what the video codec leaves in the dark
    rows, columns = np.indices(light.shape)
    return np.array([(columns * light).sum(), (rows * light).sum()]) / light.sum() + 0.5


def pixel_of_point(rays: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(x, y) where the ray through `point` would start: Newton from the nearest pixel's ray.

    A ray's moment is point x direction for every point on it; how far that fails is linear in
    the pixel nearby. Rays "6 H W" in the frame of `point`.
    """
    moment, direction = rays[:3].astype(np.float64), rays[3:].astype(np.float64)
    miss = np.cross(point, direction, axisb=0, axisc=0) - moment
    miss[:, ~direction.any(axis=0)] = np.inf
    row, column = np.unravel_index((miss**2).sum(axis=0).argmin(), miss.shape[1:])
    by_column = (miss[:, row, column + 1] - miss[:, row, column - 1]) / 2
    by_row = (miss[:, row + 1, column] - miss[:, row - 1, column]) / 2
    step, *_ = np.linalg.lstsq(np.stack([by_column, by_row], 1), -miss[:, row, column], rcond=None)
    return np.array([column, row]) + step + 0.5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, torch.Tensor]:
    """A store made of films of nothing but a small white ball, and where the ball is."""
    at = tmp_path_factory.mktemp("ball")
    seconds = LENGTH / 30
    simulate_root(at / "root", takes=1, seconds=seconds, seed=SEED, height=16, faults=False)
    plan = plan_take(SEED, 0, LENGTH)
    clock = take_clock(plan)
    eyes = eye_poses(plan.category, plan.seed, clock.row_seconds, plan.seconds)
    rig = build_rig(plan, eyes[0])
    scene = build_scene(plan.category, plan.seed, clock.scene_seconds, plan.seconds)
    place = transform_points(
        scene.room_from_eye[0], torch.tensor(IN_FIRST_EYE, dtype=torch.float64)
    )
    moving = replace(
        scene.moving,
        bodies=scene.moving.bodies.chosen(np.zeros(len(scene.moving.bodies), dtype=bool)),
        room_from_body=scene.moving.room_from_body[:0],
        size=scene.moving.size[:0],
        in_ego=scene.moving.in_ego[:0],
    )
    dark = replace(
        scene,
        still=ball(place.numpy(), BALL_METRES, 0),
        moving=moving,
        texels=np.full((1, 256, 256, 3), 255, dtype=np.uint8),
        still_shades=scene.still_shades[:0],
        moving_shades=scene.moving_shades[:0],
    )
    videos = at / "root" / "takes" / plan.take_name / SMALL_VIDEOS
    paths = {cam_id: videos / f"{cam_id}.mp4" for cam_id in plan.exo_ids}
    film(dark, rig, paths | {"ego": videos / f"{plan.ego_id}_214-1.mp4"}, Filming(448, 2, "cpu"))
    recipe = ClipRecipe(frames=FRAMES, stride=4, window_step=60, hw=(SIZE, SIZE))
    ingest(at / "root", at / "clips.parquet", recipe=recipe)
    encode_latents(
        at / "clips.parquet", at / "ball.store", vae_spec="tiny", wish=Wish(ego_frames=("train",))
    )
    return open_store(at / "ball.store"), transform_points(rig.world_from_room, place)


def test_the_rays_of_the_ego_frames_put_the_point_on_its_pixel(
    world: tuple[Store, torch.Tensor],
):
    store, point_world = world
    (clip,) = store.rows
    ref_from_world = invert_rigid(torch.from_numpy(clip.exos[0].world_from_cam[0]))
    point_ref = transform_points(ref_from_world, point_world).numpy()
    frames = store.read("ego_frames", [clip.clip_id])[0]
    rays = store.read("ego_rays", [clip.clip_id])[0]
    for frame, rays_of_frame in zip(frames, rays, strict=True):
        assert np.abs(middle_of_light(frame) - pixel_of_point(rays_of_frame, point_ref)).max() < 0.5


def test_the_lenses_of_the_exo_views_put_the_point_on_its_pixel(
    world: tuple[Store, torch.Tensor],
):
    store, point_world = world
    (clip,) = store.rows
    views = store.read("exo_frames", [clip.clip_id])[0]
    for camera, frames in zip(clip.exos, views, strict=True):
        lens = make_lens(camera.lens, camera.params, camera.hw).resized((SIZE, SIZE))
        cam_from_world = invert_rigid(torch.from_numpy(camera.world_from_cam[0]))
        expected, seen = lens.project(transform_points(cam_from_world, point_world))
        assert seen
        assert np.abs(middle_of_light(frames[0]) - expected.numpy()).max() < 0.5


def test_the_rays_for_align_put_the_point_on_its_cell_in_every_view(
    world: tuple[Store, torch.Tensor],
):
    store, point_world = world
    (clip,) = store.rows
    first = store.read("ego_frames", [clip.clip_id])[0, 0]
    cells = SIZE // store.recipe.clips.shape.latent().hw[0]
    rays = store.read("align_rays", [clip.clip_id])[0]
    for camera, rays_of_view in zip(clip.exos, rays, strict=True):
        exo_from_world = invert_rigid(torch.from_numpy(camera.world_from_cam[0]))
        point_exo = transform_points(exo_from_world, point_world).numpy()
        got = pixel_of_point(rays_of_view, point_exo) * cells
        assert np.abs(middle_of_light(first) - got).max() < 0.5


def test_the_points_along_the_rays_find_the_point_in_every_view(
    world: tuple[Store, torch.Tensor],
):
    """Between the points of the ball's cell at the ball's distance lies its pixel in each view."""
    store, point_world = world
    (clip,) = store.rows
    x, y = middle_of_light(store.read("ego_frames", [clip.clip_id])[0, 0])
    cells = SIZE // store.recipe.clips.shape.latent().hw[0]
    ego_from_world = invert_rigid(torch.from_numpy(clip.ego.world_from_cam[0]))
    metres = transform_points(ego_from_world, point_world).norm().item()
    nearness = 1 / align_depths().numpy()
    depth = np.interp(-1 / metres, -nearness, np.arange(len(nearness)))
    at = np.array([[depth], [y / cells - 0.5], [x / cells - 0.5]])
    frames = store.read("exo_frames", [clip.clip_id])[0, :, 0]
    for frame, points in zip(frames, clip_align_points(store.recipe.clips, clip), strict=True):
        ndc = [map_coordinates(points[..., k], at, order=1)[0] for k in range(2)]
        assert np.abs(middle_of_light(frame) - (np.array(ndc) + 1) / 2 * SIZE).max() < 1
