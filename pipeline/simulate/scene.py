"""A scene: a place, a person in it and the things they move, sampled at the frames of a video."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from pipeline.simulate.acts import Act, perform
from pipeline.simulate.bodies import Bodies
from pipeline.simulate.person import (
    BodyMaker,
    Dress,
    MovingBodies,
    add_person,
    room_from_eye,
    skeleton,
)
from pipeline.simulate.places import furnish

CATEGORIES = ("bike", "basketball", "covid", "cpr")
"""The paper's four, in the order in which takes go through them."""


@dataclass(frozen=True)
class Scene:
    """All that a renderer needs. Frame: the room's, metres, z up, floor at 0, person faces +y."""

    still: Bodies
    moving: MovingBodies
    still_shades: Float64[np.ndarray, "s 5"]
    moving_shades: Float64[np.ndarray, "m f 5"]
    texels: UInt8[np.ndarray, "n 256 256 3"]
    lamp: Float64[np.ndarray, "3"]
    room_from_eye: Float64[Tensor, "f 4 4"]
    """The upright camera on the wearer's glasses, at each frame."""

    @property
    def frames(self) -> int:
        """How many instants the moving bodies were sampled at."""
        return len(self.room_from_eye)

    def shades(self, frame: int) -> Float64[np.ndarray, "k 5"]:
        """Soft shadows at one frame, those of the place first."""
        return np.concatenate([self.still_shades, self.moving_shades[:, frame]])


def build_scene(category: str, seed: int, times: Float64[np.ndarray, "f"], seconds: float) -> Scene:
    """The scene of a category and seed at the given times of a take of so many seconds."""
    place, act = furnish(category, seed), perform(category, seed, times, seconds)
    bones = skeleton(act.deeds)
    dress = Dress(*(place.palette[name] for name in ("skin", "hair", "shirt", "trousers", "shoes")))
    maker = BodyMaker([], [], [], [], [])
    for prop in act.props:
        maker.body(prop.shape, prop.room_from_body, prop.size, place.palette[prop.paint])
    add_person(maker, bones, act.deeds.grips, dress)
    return Scene(
        still=place.bodies,
        moving=maker.moving(),
        still_shades=place.shades,
        moving_shades=_hand_shades(act),
        texels=place.palette.texels(),
        lamp=place.lamp,
        room_from_eye=torch.from_numpy(room_from_eye(bones)),
    )


def eye_poses(
    category: str, seed: int, times: Float64[np.ndarray, "f"], seconds: float
) -> Float64[Tensor, "f 4 4"]:
    """The upright head-worn camera's poses alone, as the scene of the same arguments has them."""
    return torch.from_numpy(room_from_eye(skeleton(perform(category, seed, times, seconds).deeds)))


def _hand_shades(act: Act) -> Float64[np.ndarray, "m f 5"]:
    """A soft shadow under each hand and each moving thing, weaker the higher it is held."""
    props = [prop.room_from_body[:, :3, 3] for prop in act.props[:4]]
    places = np.stack([*act.deeds.hands, *props])
    reach = np.array([0.17] * 2 + [2.2 * float(prop.size.max()) for prop in act.props[:4]])
    height = np.clip(places[..., 2] - act.support_metres, 0.0, None)
    dark = 0.45 * np.clip(1.0 - height / 0.5, 0.0, 1.0)
    ground = places.copy()
    ground[..., 2] = act.support_metres
    radii = np.broadcast_to(reach[:, None], dark.shape)
    return np.concatenate([ground, radii[..., None], dark[..., None]], axis=-1)
