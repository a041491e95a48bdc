"""Pictures of a scene: whole ones for the moving camera, changed parts only for the fixed ones."""

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from pipeline.simulate.bodies import join
from pipeline.simulate.cast import Hits, cast, no_hits, tiles_with
from pipeline.simulate.optics import Optics
from pipeline.simulate.scene import Scene
from pipeline.simulate.shade import daylight, pack_texels, shade, surfaces


class Painter:
    """A scene on a device, ready to be seen by any camera."""

    def __init__(self, scene: Scene, device: str):
        self.scene = scene
        self.texels = pack_texels(scene.texels, device)

    def picture(
        self, optics: Optics, room_from_cam: Float64[Tensor, "4 4"], frame: int, *, in_ego: bool
    ) -> UInt8[np.ndarray, "H W 3"]:
        """One frame with every ray cast; without the wearer's head if `in_ego`."""
        bodies = join(self.scene.still, self.scene.moving.at(frame, in_ego=in_ego))
        rays = optics.rays(room_from_cam)
        hits = no_hits(rays)
        cast(rays, bodies, hits, 0, tiles_with(rays, bodies))
        table = surfaces(bodies, self.texels, self.scene.lamp)
        colour = shade(rays, hits, table, hits.body >= 0)
        colour = colour * daylight(rays, hits, self.scene.shades(frame))
        tiles = optics.blank()
        tiles[optics.place] = optics.pixels(colour, optics.light)
        return optics.image(tiles).cpu().numpy()


class FixedCamera:
    """A camera that stands still: what does not move is cast once and kept."""

    def __init__(self, painter: Painter, optics: Optics, room_from_cam: Float64[Tensor, "4 4"]):
        self.painter, self.optics, scene = painter, optics, painter.scene
        self.rays = optics.rays(room_from_cam)
        self.hits = no_hits(self.rays)
        cast(self.rays, scene.still, self.hits, 0, tiles_with(self.rays, scene.still))
        table = surfaces(scene.still, painter.texels, scene.lamp)
        self.colour = shade(self.rays, self.hits, table, self.hits.body >= 0)
        left = daylight(self.rays, self.hits, scene.still_shades)
        self.tiles = optics.blank()
        self.tiles[optics.place] = optics.pixels(self.colour * left, optics.light)

    def picture(self, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        """One frame: only tiles that moving bodies or their shadows may touch are made anew."""
        scene, optics = self.painter.scene, self.optics
        moving = scene.moving.at(frame, in_ego=False)
        touched = tiles_with(self.rays, moving)
        shaded = self.rays.touched(torch.from_numpy(scene.moving_shades[:, frame, :4]))
        chosen = torch.nonzero(touched.any(dim=1) | shaded.any(dim=1))[:, 0]
        there = chosen.to(self.hits.metres.device)
        rays = self.rays.only(chosen)
        hits = Hits(self.hits.metres[there].clone(), self.hits.body[there].clone())
        cast(rays, moving, hits, len(scene.still), touched[chosen])
        bodies = join(scene.still, moving)
        table = surfaces(bodies, self.painter.texels, scene.lamp)
        met = hits.body >= len(scene.still)
        colour = torch.where(met, shade(rays, hits, table, met), self.colour[:, there])
        colour = colour * daylight(rays, hits, scene.shades(frame))
        tiles = self.tiles.clone()
        tiles[optics.place[there]] = optics.pixels(colour, optics.light[there])
        return optics.image(tiles).cpu().numpy()
