"""Shading: the colour of what each sample sees, from textures, a lamp and soft shadows.

Exactly rounded, elementwise operations only, as in cast.py.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8
from torch import Tensor

from pipeline.simulate.bodies import Bodies, Shape
from pipeline.simulate.cast import Hits
from pipeline.simulate.optics import Rays
from pipeline.simulate.textures import TEXELS

AMBIENT, SKY, LAMP = 0.52, 0.11, 0.56
"""Light from everywhere, more of it from above, and from the lamp."""
CHUNK = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Samples shaded together: what stays in a processor's cache, or fills a GPU."""

Field = Float32[Tensor, "*k"]


@dataclass(frozen=True, eq=False)
class Surfaces:
    """What shading needs of every body, a column each, on the renderer's device."""

    columns: Float32[Tensor, "20 n"]
    paint: Int64[Tensor, "n"]
    texels: Int32[Tensor, "t"]
    """All textures, one packed colour after another."""
    lamp: tuple[float, float, float]


def pack_texels(texels: UInt8[np.ndarray, "n 256 256 3"], device: str) -> Int32[Tensor, "t"]:
    """Textures as red | green << 8 | blue << 16."""
    wide = torch.from_numpy(texels).to(torch.int32)
    return (wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16).flatten().to(device)


def surfaces(bodies: Bodies, texels: Int32[Tensor, "t"], lamp: np.ndarray) -> Surfaces:
    """The table of bodies for shading."""
    flat, room = bodies.shape != Shape.CAPSULE, bodies.shape == Shape.ROOM
    inverse = 1 / np.where(bodies.size > 0, bodies.size, np.inf)
    columns = np.concatenate(
        [
            bodies.room_from_body[:, :3, :3].reshape(-1, 9),
            bodies.room_from_body[:, :3, 3],
            inverse,
            bodies.size[:, 2:],
            bodies.per_metre[:, None] * TEXELS,
            flat[:, None],
            room[:, None],
            np.where(room, -1.0, 1.0)[:, None],
        ],
        axis=1,
    )
    device = texels.device
    return Surfaces(
        torch.from_numpy(columns.T.astype(np.float32)).to(device),
        torch.from_numpy(bodies.paint).to(device),
        texels,
        (float(lamp[0]), float(lamp[1]), float(lamp[2])),
    )


def shade(
    rays: Rays, hits: Hits, table: Surfaces, wanted: Bool[Tensor, "n s"]
) -> Float32[Tensor, "3 n s"]:
    """Lit colours in [0, 1] of the wanted samples; black elsewhere."""
    colour = torch.zeros_like(rays.directions)
    flat, directions = colour.flatten(1), rays.directions.flatten(1)
    metres, body = hits.metres.flatten(), hits.body.flatten()
    samples = torch.nonzero(wanted.flatten() & (body >= 0))[:, 0]
    for some in samples.split(CHUNK[metres.device.type]):
        seen = (directions.index_select(1, some), metres.index_select(0, some))
        number = body.index_select(0, some)
        flat.index_copy_(1, some, _lit(rays.origin, *seen, number, table))
    return colour


def _lit(
    origin: tuple[float, float, float],
    directions: Float32[Tensor, "3 k"],
    metres: Float32[Tensor, "k"],
    body: Int32[Tensor, "k"],
    table: Surfaces,
) -> Float32[Tensor, "3 k"]:
    x, y, z = (step * metres + start for step, start in zip(directions, origin, strict=True))
    column = table.columns.index_select(1, body)
    axes, centre = column[:9], column[9:12]
    from_x, from_y, from_z = x - centre[0], y - centre[1], z - centre[2]
    local = tuple(axes[i] * from_x + axes[3 + i] * from_y + axes[6 + i] * from_z for i in range(3))
    normal, texel = _surface(local, column[12:], table.paint.index_select(0, body))
    nx, ny, nz = (
        axes[3 * i] * normal[0] + axes[3 * i + 1] * normal[1] + axes[3 * i + 2] * normal[2]
        for i in range(3)
    )
    to_x, to_y, to_z = (lamp - at for lamp, at in zip(table.lamp, (x, y, z), strict=True))
    square = to_x * to_x + to_y * to_y + to_z * to_z
    facing = (nx * to_x + ny * to_y + nz * to_z) / square.sqrt()
    fade = (square * 0.03 + 1.0).reciprocal()
    light = facing.clamp(min=0.0) * fade * LAMP + nz * SKY + AMBIENT
    packed = table.texels.index_select(0, texel)
    channels = [(packed >> shift & 255).to(torch.float32) * (1 / 255) for shift in (0, 8, 16)]
    return torch.stack([channel * light for channel in channels])


def _surface(
    local: tuple, column: Float32[Tensor, "8 k"], paint: Int64[Tensor, "k"]
) -> tuple[tuple[Field, Field, Field], Int64[Tensor, "k"]]:
    """The outward normal in the body's frame, and the number of the texel."""
    x, y, z = local
    *inverse, half, per_metre, flat, room, outward = column
    flat = flat > 0
    above = z - torch.minimum(torch.maximum(z, half * -1.0), half)
    length = (x * x + y * y + above * above).sqrt().clamp(min=1e-9)
    round_normal = (x / length, y / length, above / length)
    size = tuple(
        torch.where(flat, (at * by).abs(), normal.abs())
        for at, by, normal in zip(local, inverse, round_normal, strict=True)
    )
    on_x = (size[0] >= size[1]) & (size[0] >= size[2])
    on_y = ~on_x & (size[1] >= size[2])
    on = (on_x, on_y, ~on_x & ~on_y)
    normal = tuple(
        torch.where(flat, torch.where(face, at.sign() * outward, 0.0), bent)
        for face, at, bent in zip(on, local, round_normal, strict=True)
    )
    across, down = torch.where(on_x, y, x), torch.where(on[2], y, z) * -1.0
    face = on_y * 2 + on[2] * 4 + (torch.where(on_x, x, torch.where(on_y, y, z)) > 0)
    picture = paint + face * (room > 0)
    row = (down * per_metre + TEXELS / 2).floor().to(torch.int64) & (TEXELS - 1)
    texel = (across * per_metre + TEXELS / 2).floor().to(torch.int64) & (TEXELS - 1)
    return (normal[0], normal[1], normal[2]), (picture * TEXELS + row) * TEXELS + texel


def daylight(rays: Rays, hits: Hits, shades: Float64[np.ndarray, "k 5"]) -> Float32[Tensor, "n s"]:
    """Share of the light left by soft round shadows: 1 away from them."""
    left = torch.ones_like(hits.metres)
    touched = rays.touched(torch.from_numpy(shades[:, :4]))
    for number, (x, y, z, radius, dark) in enumerate(shades.tolist()):
        tiles = torch.nonzero(touched[:, number])[:, 0].to(left.device)
        if dark <= 0 or not len(tiles):
            continue
        metres = hits.metres.index_select(0, tiles)
        square = torch.zeros_like(metres)
        directions = rays.directions.index_select(1, tiles)
        for step, start, centre in zip(directions, rays.origin, (x, y, z), strict=True):
            gap = step * metres + (start - centre)
            square = square + gap * gap
        near = (1.0 - square * (1 / radius**2)).clamp(min=0.0)
        left[tiles] *= 1.0 - near * near * dark
    return left
