"""A camera's rays: several a pixel, in square tiles, so that a body costs only its own tiles."""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor

from exo2ego.geometry.camera import rotate_directions
from exo2ego.geometry.lenses import Lens, pixel_centres

TILE = 8
"""Side of a tile in pixels."""


@dataclass(frozen=True, eq=False)
class Rays:
    """Rays from one point in the room, tile by tile: `n` tiles of `s` samples."""

    directions: Float32[Tensor, "3 n s"]
    """Unit vectors in the room's frame. Within a tile: sample row, sample column, row, column."""
    origin: tuple[float, float, float]
    axes: Float64[Tensor, "n 3"]
    """Middle direction of each tile; always on the CPU."""
    spread: Float64[Tensor, "n"]
    """Largest angle in radians from a tile's middle direction to its samples; on the CPU."""

    def touched(self, spheres: Float64[Tensor, "k 4"]) -> Bool[Tensor, "n k"]:
        """Whether a tile may see some of each sphere (centre, radius): never false if it does."""
        towards = spheres[:, :3] - torch.tensor(self.origin, dtype=torch.float64)
        distance = (towards**2).sum(dim=1).sqrt().clamp(min=1e-9)
        inside = distance <= spheres[:, 3]
        sine = (spheres[:, 3] / distance).clamp(max=1.0)
        cosine = (1 - sine * sine).sqrt()
        # The least cosine at which a tile's cone and a sphere's cone meet: cos(a + b).
        least = torch.outer(self.spread.cos(), cosine) - torch.outer(self.spread.sin(), sine)
        between = self.axes @ rearrange(towards / distance[:, None], "k i -> i k")
        return inside | (between >= least - 1e-6)

    def only(self, tiles: Int64[Tensor, "m"]) -> "Rays":
        """The rays of some tiles."""
        there = tiles.to(self.directions.device)
        return replace(
            self,
            directions=self.directions.index_select(1, there),
            axes=self.axes[tiles],
            spread=self.spread[tiles],
        )


@dataclass(frozen=True, eq=False)
class Optics:
    """A lens and an image size, with every ray in the camera's frame worked out once."""

    hw: tuple[int, int]
    samples: int
    """Samples a pixel along each side."""
    directions: Float32[Tensor, "3 n s"]
    axes: Float64[Tensor, "n 3"]
    spread: Float64[Tensor, "n"]
    """Middle direction and widest angle of each tile, as in `Rays`; on the CPU."""
    light: Float32[Tensor, "n s"]
    """Share of the light that arrives: 0 outside the lens's field."""
    place: Int64[Tensor, "n"]
    """Number of each tile in the image, row by row; tiles without light are left out."""

    def rays(self, room_from_cam: Float64[Tensor, "4 4"]) -> Rays:
        """The camera's rays in the room."""
        rows = room_from_cam.tolist()
        x, y, z = self.directions.unbind(dim=0)
        turned = [x * row[0] + y * row[1] + z * row[2] for row in rows[:3]]
        return Rays(
            directions=torch.stack(turned),
            origin=(rows[0][3], rows[1][3], rows[2][3]),
            axes=rotate_directions(room_from_cam, self.axes),
            spread=self.spread,
        )

    def blank(self) -> UInt8[Tensor, "tiles p 3"]:
        """Black tiles of a whole image."""
        tiles = tiles_of(self.hw)
        return torch.zeros(
            (tiles[0] * tiles[1], TILE * TILE, 3), dtype=torch.uint8, device=self.light.device
        )

    def pixels(
        self, colour: Float32[Tensor, "3 m s"], light: Float32[Tensor, "m s"]
    ) -> UInt8[Tensor, "m p 3"]:
        """Tiles of pixels: the mean of each pixel's samples."""
        parts = rearrange(colour * light, "c m (q p) -> q m p c", q=self.samples**2)
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return (total * (255.0 / self.samples**2) + 0.5).floor().clamp(0, 255).to(torch.uint8)

    def image(self, tiles: UInt8[Tensor, "tiles p 3"]) -> UInt8[Tensor, "H W 3"]:
        """The image that tiles make."""
        rows, columns = tiles_of(self.hw)
        whole = rearrange(
            tiles, "(r c) (y x) k -> (r y) (c x) k", r=rows, c=columns, y=TILE, x=TILE
        )
        return whole[: self.hw[0], : self.hw[1]]


def tiles_of(hw: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles that cover an image."""
    return -(-hw[0] // TILE), -(-hw[1] // TILE)


def make_optics(
    lens: Lens,
    hw: tuple[int, int],
    *,
    samples: int,
    device: str,
    circle_per_width: float | None = None,
) -> Optics:
    """The rays of a lens for images of `hw`, dark outside its field and its image circle.

    `circle_per_width` is the circle's radius as a share of the width; its last tenth fades out.
    """
    rows, columns = tiles_of(hw)
    fine = lens.resized((hw[0] * samples, hw[1] * samples))
    at = pixel_centres((rows * TILE * samples, columns * TILE * samples))
    at = rearrange(
        at, "(r y sy) (c x sx) k -> (r c) (sy sx y x) k",
        r=rows, c=columns, sy=samples, sx=samples, y=TILE,
    )  # fmt: skip
    directions, valid = _unproject_in_parts(fine, at)
    light = valid.to(torch.float64)
    if circle_per_width is not None:
        middle = at.new_tensor([hw[1] / 2, hw[0] / 2]) * samples
        radius = ((at - middle) ** 2).sum(dim=-1).sqrt() / (circle_per_width * hw[1] * samples)
        light = light * ((1 - radius) * 10).clamp(0, 1) * (1 - 0.25 * radius**2)
    kept = torch.nonzero((light > 0).any(dim=1))[:, 0]
    directions = directions[kept]
    middle = directions.mean(dim=1)
    middle = middle / (middle**2).sum(dim=1, keepdim=True).sqrt()
    cosine = (directions * middle[:, None]).sum(dim=2).amin(dim=1)
    return Optics(
        hw=hw,
        samples=samples,
        directions=rearrange(directions, "n s i -> i n s")
        .to(torch.float32)
        .contiguous()
        .to(device),
        axes=middle,
        spread=torch.acos(cosine.clamp(-1.0, 1.0)) + 1e-5,
        light=light[kept].to(torch.float32).to(device),
        place=kept.to(device),
    )


def _unproject_in_parts(
    lens: Lens, pixels: Float64[Tensor, "n s 2"]
) -> tuple[Float64[Tensor, "n s 3"], Bool[Tensor, "n s"]]:
    """What the lens unprojects, some tiles at a time: four times as fast as all at once."""
    parts = [lens.unproject(some) for some in pixels.split(128)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
