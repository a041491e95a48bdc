"""Plücker rays: the laws of a line, the frame they are in, and bits that nothing disturbs."""

import numpy as np
import pytest
import torch
from einops import rearrange, reduce
from jaxtyping import Float64
from torch import Tensor
from torch.testing import assert_close

from exo2ego.geometry.camera import (
    CameraError,
    compose,
    invert_rigid,
    rigid_from_quaternion,
    rotate_directions,
    transform_points,
)
from exo2ego.geometry.lenses import Lens, make_lens, pixel_centres, virtual_pinhole
from exo2ego.geometry.plucker import align_rays, ego_rays, plucker_rays

HW = (16, 24)
BEND = (0.4, -0.45, 0.04, 1.3, -1.77, 0.65, 1e-3, -2e-3, -6e-4, 6e-4, 5e-4, 2e-4)
LENSES: dict[str, Lens] = {
    "pinhole": virtual_pinhole((256, 256), 150 / 512),
    "gopro": make_lens(
        "kannala_brandt", (176.1, 177.0, 191.0, 109.0, 0.04, 0.06, -0.06, 0.02), (216, 384)
    ),
    "aria": make_lens("fisheye624", (194.0, 194.0, 227.0, 221.0, *BEND), (448, 448), 1),
}
each_lens = pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)


def poses(*counts: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    quaternions = torch.randn(*counts, 4, dtype=torch.float64, generator=generator)
    metres = torch.randn(*counts, 3, dtype=torch.float64, generator=generator)
    return rigid_from_quaternion(quaternions, metres)


def halves(rays: Tensor) -> tuple[Tensor, Tensor]:
    """Moments and directions with xyz last: "... H W 3" each."""
    moment, direction = rearrange(rays, "... (part xyz) H W -> part ... H W xyz", part=2)
    return moment, direction


@each_lens
def test_moments_are_at_right_angles_to_unit_directions(lens: Lens):
    moment, direction = halves(plucker_rays(lens, poses(3), HW))
    ones = torch.ones(3, *HW, dtype=torch.float64)
    assert_close((direction * direction).sum(dim=-1), ones, rtol=0, atol=1e-13)
    assert_close((moment * direction).sum(dim=-1), 0 * ones, rtol=0, atol=1e-13)


@each_lens
def test_the_moment_is_unchanged_along_the_ray(lens: Lens):
    ref_from_cam = poses(3)
    moment, direction = halves(plucker_rays(lens, ref_from_cam, HW))
    origin = rearrange(ref_from_cam[:, :3, 3], "n xyz -> n 1 1 xyz")
    for metres in (-2.0, 0.0, 7.5):
        there = torch.linalg.cross(origin + metres * direction, direction)
        assert_close(there, moment, rtol=0, atol=1e-13)


@each_lens
def test_a_world_point_lies_on_the_ray_of_the_pixel_that_sees_it(lens: Lens):
    world_from_ego, world_from_ref = poses(2, seed=1), poses(seed=2)
    rays = ego_rays(lens, world_from_ego, world_from_ref, HW)
    row, column, metres = 5, 17, 2.5
    centre = pixel_centres(HW)[row, column]
    seen_from_ego = metres * lens.resized(HW).unproject(centre)[0]
    point_world = transform_points(world_from_ego, seen_from_ego)
    point_ref = transform_points(invert_rigid(world_from_ref), point_world)
    pixel, valid = lens.resized(HW).project(seen_from_ego)
    assert valid
    assert_close(pixel, centre, rtol=0, atol=1e-9)
    moment, direction = halves(rays)
    at_point = torch.linalg.cross(point_ref, direction[:, row, column])
    assert_close(at_point, moment[:, row, column], rtol=0, atol=1e-12)


def test_the_reference_sees_itself_without_moment():
    world_from_ref = poses(seed=2)
    rays = ego_rays(LENSES["pinhole"], world_from_ref[None], world_from_ref, HW)
    moment, direction = halves(rays)
    assert_close(moment, torch.zeros_like(moment), rtol=0, atol=1e-13)
    looking, _ = LENSES["pinhole"].resized(HW).unproject(pixel_centres(HW))
    assert_close(direction[0], looking, rtol=0, atol=1e-13)


def straightforward_rays(
    K: Float64[np.ndarray, "3 3"], ref_from_ego: Float64[np.ndarray, "4 4"], hw: tuple[int, int]
) -> Float64[np.ndarray, "6 H W"]:
    """Pinhole rays one pixel at a time, by the textbook."""
    rays = np.zeros((6, *hw))
    for row in range(hw[0]):
        for column in range(hw[1]):
            inside = np.linalg.solve(K, np.array([column + 0.5, row + 0.5, 1.0]))
            direction = ref_from_ego[:3, :3] @ (inside / np.linalg.norm(inside))
            rays[:3, row, column] = np.cross(ref_from_ego[:3, 3], direction)
            rays[3:, row, column] = direction
    return rays


def test_pinhole_rays_are_the_textbooks():
    world_from_ego, world_from_ref = poses(2, seed=1), poses(seed=2)
    K = np.array([[150 / 512 * 24, 0, 12], [0, 150 / 512 * 16, 8], [0, 0, 1]])
    rays = ego_rays(LENSES["pinhole"], world_from_ego, world_from_ref, HW)
    for frame in range(2):
        ref_from_ego = np.linalg.inv(world_from_ref.numpy()) @ world_from_ego[frame].numpy()
        expected = straightforward_rays(K, ref_from_ego, HW)
        assert_close(rays[frame].numpy(), expected, rtol=0, atol=1e-13)


def test_align_rays_are_the_first_ego_frame_in_each_exo_cameras_frame():
    ego_first, world_from_exo = poses(seed=1), poses(4, seed=2)
    together = align_rays(LENSES["aria"], ego_first, world_from_exo, HW)
    for view in range(4):
        alone = ego_rays(LENSES["aria"], ego_first[None], world_from_exo[view], HW)
        assert torch.equal(together[view], alone[0])


def test_rays_on_the_latent_grid_are_those_of_the_cells_centres():
    lens, cell = virtual_pinhole((64, 96), 150 / 512), 8
    centres = reduce(pixel_centres((64, 96)), "(h y) (w x) xy -> h w xy", "mean", y=cell, x=cell)
    expected = rotate_directions(poses(), lens.unproject(centres)[0])
    _, direction = halves(plucker_rays(lens, poses(), (8, 12)))
    assert_close(direction, expected, rtol=0, atol=1e-13)


@each_lens
def test_rays_do_not_depend_on_the_size_the_lens_is_given_for(lens: Lens):
    full = plucker_rays(lens, poses(), HW)
    halved = plucker_rays(lens.resized((lens.hw[0] // 2, lens.hw[1] // 2)), poses(), HW)
    assert_close(halved, full, rtol=0, atol=1e-12)


@each_lens
def test_rays_have_the_same_bits_one_by_one_and_on_any_number_of_threads(lens: Lens):
    world_from_ego, world_from_ref, hw = poses(3, seed=1), poses(seed=2), (72, 100)
    together = ego_rays(lens, world_from_ego, world_from_ref, hw)
    for frame in range(3):
        alone = ego_rays(lens, world_from_ego[frame : frame + 1], world_from_ref, hw)
        assert torch.equal(alone[0], together[frame])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(ego_rays(lens, world_from_ego, world_from_ref, hw), together)
    finally:
        torch.set_num_threads(threads)


def test_pixels_without_a_ray_are_zero():
    fold = make_lens("kannala_brandt", (40.0, 40.0, 32.0, 32.0, -0.3, 0.0, 0.0, 0.0), (64, 64))
    rays = plucker_rays(fold, poses(2), (64, 64))
    _, valid = fold.unproject(pixel_centres((64, 64)))
    assert 0 < valid.sum() < valid.numel()
    assert (rays[:, :, ~valid] == 0).all()
    assert (halves(rays)[1][:, valid].square().sum(dim=-1) > 0.99).all()


def test_single_precision_poses_give_double_precision_rays():
    rays = plucker_rays(LENSES["pinhole"], poses(2).to(torch.float32), HW)
    assert rays.dtype == torch.float64


def test_a_pose_that_is_not_rigid_is_named():
    broken = poses(4, seed=1)
    broken[2, 0, 0] = torch.nan
    with pytest.raises(CameraError, match=r"world_from_ego: pose \(2,\) holds NaN"):
        ego_rays(LENSES["pinhole"], broken, poses(seed=2), HW)
    with pytest.raises(CameraError, match=r"world_from_exo: pose \(2,\) holds NaN"):
        align_rays(LENSES["pinhole"], poses(seed=2), broken, HW)


def test_rays_depend_on_relative_poses_only():
    new_world, world_from_ego, world_from_ref = poses(seed=3), poses(2, seed=1), poses(seed=2)
    moved = ego_rays(
        LENSES["gopro"], compose(new_world, world_from_ego), compose(new_world, world_from_ref), HW
    )
    stayed = ego_rays(LENSES["gopro"], world_from_ego, world_from_ref, HW)
    assert_close(moved, stayed, rtol=0, atol=1e-12)


@pytest.mark.gpu
@each_lens
def test_rays_have_the_same_bits_on_a_gpu(lens: Lens):
    on_gpu = plucker_rays(lens, poses(3).cuda(), (72, 100))
    assert torch.equal(on_gpu.cpu(), plucker_rays(lens, poses(3), (72, 100)))
