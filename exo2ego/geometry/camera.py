"""Rigid camera poses: make, check, invert, chain and apply them.

A pose `a_from_b` takes points of frame b to frame a and chains by eye: a_from_b, b_from_c.
Metres; cameras look along +z, x right, y down; the world's z is up. Every product is written out
elementwise, because a BLAS product may differ in its last bits with batch size or thread count.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

ORTHONORMAL_TOLERANCE = 1e-3
"""Largest entry of |RᵀR - 1| of a pose as files hold it: six decimals, often single precision."""


class CameraError(ValueError):
    """A pose, lens or ray request that has no geometric meaning."""


def transform_points(
    a_from_b: Float[Tensor, "*#n 4 4"], points_b: Float[Tensor, "*#n 3"]
) -> Float[Tensor, "*n 3"]:
    """Points of frame b in frame a; leading axes broadcast."""
    return rotate_directions(a_from_b, points_b) + a_from_b[..., :3, 3]


def rotate_directions(
    a_from_b: Float[Tensor, "*#n 4 4"], directions_b: Float[Tensor, "*#n 3"]
) -> Float[Tensor, "*n 3"]:
    """Directions of frame b in frame a: turned, not moved; leading axes broadcast."""
    x, y, z = (rearrange(part, "... -> ... 1") for part in directions_b.unbind(dim=-1))
    column_x, column_y, column_z = a_from_b[..., :3, :3].unbind(dim=-1)
    return column_x * x + column_y * y + column_z * z


def invert_rigid(a_from_b: Float[Tensor, "*n 4 4"]) -> Float[Tensor, "*n 4 4"]:
    """The pose b_from_a, by the transposed rotation."""
    b_from_a = torch.zeros_like(a_from_b)
    b_from_a[..., :3, :3] = rearrange(a_from_b[..., :3, :3], "... row column -> ... column row")
    b_from_a[..., :3, 3] = -rotate_directions(b_from_a, a_from_b[..., :3, 3])
    b_from_a[..., 3, 3] = 1
    return b_from_a


def compose(
    a_from_b: Float[Tensor, "*#n 4 4"], b_from_c: Float[Tensor, "*#n 4 4"]
) -> Float[Tensor, "*n 4 4"]:
    """The pose a_from_c; leading axes broadcast."""
    columns = rearrange(b_from_c[..., :3, :], "... row column -> ... column row")
    turned = rotate_directions(rearrange(a_from_b, "... i j -> ... 1 i j"), columns)
    a_from_c = torch.zeros((*turned.shape[:-2], 4, 4), dtype=turned.dtype, device=turned.device)
    a_from_c[..., :3, :] = rearrange(turned, "... column row -> ... row column")
    a_from_c[..., :3, 3] += a_from_b[..., :3, 3]
    a_from_c[..., 3, 3] = 1
    return a_from_c


def rigid_from_quaternion(
    quaternion_xyzw: Float[Tensor, "*n 4"], translation_metres: Float[Tensor, "*n 3"]
) -> Float[Tensor, "*n 4 4"]:
    """The pose of a quaternion of any positive length, real part last, and a translation.

    Raises CameraError if a number is not finite or a quaternion is zero.
    """
    x, y, z, w = quaternion_xyzw.unbind(dim=-1)
    length = (x * x + y * y + z * z + w * w).sqrt()
    if not (torch.isfinite(length).all() and torch.isfinite(translation_metres).all()):
        raise CameraError("a quaternion or its translation holds NaN or infinity")
    if (length == 0).any():
        raise CameraError("a quaternion is zero and so names no rotation")
    x, y, z, w = x / length, y / length, z / length, w / length
    along_x, along_y, along_z = translation_metres.unbind(dim=-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), along_x),
        *(2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), along_y),
        *(2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), along_z),
        *(zero, zero, zero, one),
    ]
    return rearrange(torch.stack(rows, dim=-1), "... (i j) -> ... i j", i=4)


def check_rigid(a_from_b: Float[Tensor, "*n 4 4"], what: str) -> None:
    """Nothing, or CameraError that names `what`, the first bad pose and its fault."""
    pose = a_from_b.to(torch.float64)
    rotation, last_row = pose[..., :3, :3], pose[..., 3, :]
    columns = rotation.unbind(dim=-1)
    gram = torch.stack([(a * b).sum(dim=-1) for a in columns for b in columns], dim=-1)
    skew = (gram - torch.eye(3, dtype=pose.dtype, device=pose.device).flatten()).abs()
    volume = (torch.linalg.cross(columns[0], columns[1]) * columns[2]).sum(dim=-1)
    row_error = (last_row - last_row.new_tensor([0.0, 0.0, 0.0, 1.0])).abs()
    faults = {
        "holds NaN or infinity": ~torch.isfinite(pose).all(dim=-1).all(dim=-1),
        "last row is not 0 0 0 1": (row_error > 1e-6).any(dim=-1),
        "rotation is not orthonormal": (skew > ORTHONORMAL_TOLERANCE).any(dim=-1),
        "rotation is mirrored (determinant -1)": volume < 0,
    }
    for fault, found in faults.items():
        if found.any():
            place = tuple(torch.nonzero(found)[0].tolist())
            raise CameraError(f"{what}: pose {place or ''} {fault}".replace("pose  ", "pose "))


def look_at(
    eye: Float[Tensor, "*#n 3"], target: Float[Tensor, "*#n 3"], up: Float[Tensor, "*#n 3"]
) -> Float[Tensor, "*n 4 4"]:
    """The pose world_from_cam of a camera at `eye` that sees `target` in its middle, `up` upwards.

    Raises CameraError if the target is at the eye or straight along `up`.
    """
    eye, target, up = torch.broadcast_tensors(eye, target, up)
    forward = _unit(target - eye)
    right = _unit(torch.linalg.cross(forward, up))
    down = torch.linalg.cross(forward, right)
    pose = torch.zeros((*eye.shape[:-1], 4, 4), dtype=eye.dtype, device=eye.device)
    pose[..., :3, :] = torch.stack([right, down, forward, eye], dim=-1)
    pose[..., 3, 3] = 1
    return pose


def _unit(vector: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
    length = (vector * vector).sum(dim=-1, keepdim=True).sqrt()
    if not (length > 1e-9).all():
        raise CameraError("look_at: the target is at the eye, or straight along up")
    return vector / length
