"""Plücker rays of a camera's pixels in a reference camera's frame."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from exo2ego.geometry.camera import check_rigid, compose, invert_rigid, rotate_directions
from exo2ego.geometry.lenses import Lens, pixel_centres


def plucker_rays(
    lens: Lens, ref_from_cam: Float[Tensor, "*n 4 4"], hw: tuple[int, int]
) -> Float[Tensor, "*n 6 H W"]:
    """Plücker rays of all pixel centres of `lens` resized to `hw`, in the reference's frame.

    Channels: moment = origin x direction in metres (xyz), then unit direction (xyz); all zero
    where the lens has no ray. Plain float64 sums, products, quotients and roots: the bits are
    the same in any batch, on any number of threads and on any machine.
    Raises CameraError if a pose is not rigid. Source: paper 3.4.2.
    """
    check_rigid(ref_from_cam, "ref_from_cam")
    ref_from_cam = ref_from_cam.to(torch.float64)
    pixels = pixel_centres(hw).to(ref_from_cam.device)
    directions_cam, valid = lens.resized(hw).unproject(pixels)
    pose = rearrange(ref_from_cam, "... i j -> ... 1 1 i j")
    directions = rotate_directions(pose, directions_cam)
    dx, dy, dz = directions.unbind(dim=-1)
    x, y, z = pose[..., :3, 3].unbind(dim=-1)
    moment_direction = [y * dz - z * dy, z * dx - x * dz, x * dy - y * dx, dx, dy, dz]
    return torch.where(valid, torch.stack(moment_direction, dim=-3), 0)


def ego_rays(
    ego_lens: Lens,
    world_from_ego: Float[Tensor, "T 4 4"],
    world_from_ref: Float[Tensor, "4 4"],
    hw: tuple[int, int],
) -> Float[Tensor, "T 6 H W"]:
    """Rays of every ego frame in a reference camera's frame: an exo camera's (paper 3.4.2)."""
    check_rigid(world_from_ego, "world_from_ego")
    check_rigid(world_from_ref, "world_from_ref")
    return plucker_rays(ego_lens, compose(invert_rigid(world_from_ref), world_from_ego), hw)


def align_rays(
    ego_lens: Lens,
    world_from_ego_first: Float[Tensor, "4 4"],
    world_from_exo: Float[Tensor, "v 4 4"],
    latent_hw: tuple[int, int],
) -> Float[Tensor, "v 6 h w"]:
    """Rays of the first ego frame in each exo camera's frame, one a latent cell (paper 3.2)."""
    check_rigid(world_from_ego_first, "world_from_ego_first")
    check_rigid(world_from_exo, "world_from_exo")
    exo_from_ego = compose(invert_rigid(world_from_exo), world_from_ego_first)
    return plucker_rays(ego_lens, exo_from_ego, latent_hw)
