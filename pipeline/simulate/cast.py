"""Ray casting: where rays meet bodies.

Only exactly rounded, elementwise operations touch a pixel (+ - x / sqrt floor, comparisons,
integers, look-ups), so that every device and every thread count makes the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from pipeline.simulate.bodies import COVER_SPHERES, Bodies, Shape
from pipeline.simulate.optics import Rays

FAR = float("inf")
NEAR_METRES = 0.02
"""Nothing nearer than this to a camera is seen."""
CALL_TILES = 60
"""How many tiles more may be worked through to save one round of calls: they cost as much."""

PerRay = Float32[Tensor, "k m s"]
PerBody = Float32[Tensor, "k 1 1"]


@dataclass(frozen=True, eq=False)
class Hits:
    """The nearest body of every sample, and how far it is; changed in place by `cast`."""

    metres: Float32[Tensor, "n s"]
    body: Int32[Tensor, "n s"]


def no_hits(rays: Rays) -> Hits:
    """Samples that have met nothing yet."""
    shape, device = rays.directions.shape[1:], rays.directions.device
    return Hits(
        torch.full(shape, FAR, device=device),
        torch.full(shape, -1, dtype=torch.int32, device=device),
    )


def tiles_with(rays: Rays, bodies: Bodies) -> Bool[Tensor, "tiles n"]:
    """Whether each tile may see each body; on the CPU."""
    covers = torch.from_numpy(bodies.covers())
    touched = rays.touched(rearrange(covers, "n k i -> (n k) i"))
    return rearrange(touched, "tiles (n k) -> tiles n k", n=len(bodies), k=COVER_SPHERES).any(dim=2)


def cast(
    rays: Rays, bodies: Bodies, hits: Hits, first: int, touched: Bool[Tensor, "tiles n"]
) -> None:
    """Enters bodies, numbered from `first`, into the hits wherever they are nearer."""
    for numbers, some in _groups(bodies, touched.numpy()):
        tiles = torch.from_numpy(some).to(hits.metres.device)
        best = hits.metres.index_select(0, tiles)
        body = hits.body.index_select(0, tiles)
        for number, metres in zip(numbers, _distances(rays, tiles, bodies, numbers), strict=True):
            nearer = (metres > NEAR_METRES) & (metres < best)
            best = torch.where(nearer, metres, best)
            body.masked_fill_(nearer, first + number)
        hits.metres.index_copy_(0, tiles, best)
        hits.body.index_copy_(0, tiles, body)


def _groups(
    bodies: Bodies, touched: Bool[np.ndarray, "tiles n"]
) -> Iterator[tuple[list[int], Int64[np.ndarray, "m"]]]:
    """Neighbours in the list that are cheaper done together, with all the tiles they may touch."""
    numbers, union = list[int](), np.zeros(len(touched), dtype=bool)
    for number, own in enumerate(touched.T):
        if not own.any():
            continue
        wider = union | own
        together = (len(numbers) + 1) * wider.sum()
        apart = len(numbers) * union.sum() + own.sum() + CALL_TILES
        alike = not numbers or bodies.shape[numbers[0]] == bodies.shape[number]
        if numbers and not (alike and together <= apart):
            yield numbers, np.flatnonzero(union)
            numbers, wider = [], own
        numbers, union = [*numbers, number], wider
    if numbers:
        yield numbers, np.flatnonzero(union)


def _distances(rays: Rays, tiles: Int64[Tensor, "m"], bodies: Bodies, numbers: list[int]) -> PerRay:
    """Metres along the rays of some tiles to bodies of one shape, infinite or NaN if missed."""
    pose, size = bodies.room_from_body[numbers], bodies.size[numbers]
    axes = rearrange(pose[:, :3, :3], "k i j -> k (j i)")
    from_body = np.array(rays.origin) - pose[:, :3, 3]
    origin = (pose[:, :3, :3] * from_body[:, :, None]).sum(axis=1)
    table = np.concatenate([axes, origin, size], axis=1).astype(np.float32)
    table = torch.from_numpy(table).to(tiles.device)
    column = rearrange(table, "k column -> column k 1 1").unbind(dim=0)
    x, y, z = rays.directions.index_select(1, tiles).unbind(dim=0)
    direction = tuple(x * column[i] + y * column[i + 1] + z * column[i + 2] for i in (0, 3, 6))
    shape = bodies.shape[numbers[0]]
    if shape == Shape.CAPSULE:
        return _to_capsule(column[9:12], direction, column[12], column[14])
    return _to_box(column[9:12], direction, column[12:], inside=bool(shape == Shape.ROOM))


def _to_box(
    origin: tuple[PerBody, ...],
    direction: tuple[PerRay, ...],
    half: tuple[PerBody, ...],
    *,
    inside: bool,
) -> PerRay:
    """Metres to boxes about the origin; from inside, to the far side."""
    enter, leave = torch.full_like(direction[0], -FAR), torch.full_like(direction[0], FAR)
    for start, step, reach in zip(origin, direction, half, strict=True):
        inverse = step.reciprocal()
        first, second = inverse * (-reach - start), inverse * (reach - start)
        enter = torch.maximum(enter, torch.minimum(first, second))
        leave = torch.minimum(leave, torch.maximum(first, second))
    if inside:
        return leave
    return torch.where(enter <= leave, enter, FAR)


def _to_capsule(
    origin: tuple[PerBody, ...], direction: tuple[PerRay, ...], radius: PerBody, half: PerBody
) -> PerRay:
    """Metres to capsules along z about the origin, measured from the ray's nearest point to it.

    From there all numbers are small, which single precision needs for thin fingers far away.
    """
    x, y, z = direction
    ahead = (x * origin[0] + y * origin[1] + z * origin[2]) * -1.0
    near_x, near_y, near_z = x * ahead + origin[0], y * ahead + origin[1], z * ahead + origin[2]
    a = x * x + y * y
    b = near_x * x + near_y * y
    c = near_x * near_x + near_y * near_y - radius * radius
    square = b * b - a * c
    side = (b + square.clamp(min=0.0).sqrt()) / a * -1.0
    height = near_z + z * side
    on_side = (height.abs() <= half) & (square >= 0)
    above = near_z - torch.where(height >= 0, half, half * -1.0)
    b = b + above * z
    square = b * b - (c + above * above)
    cap = torch.where(square >= 0, (b + square.clamp(min=0.0).sqrt()) * -1.0, FAR)
    return ahead + torch.where(on_side, side, cap)
