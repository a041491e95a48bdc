"""The cameras of a take: four or five GoPros around the room, and the glasses' colour camera."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from exo2ego.geometry.camera import compose, invert_rigid, look_at, rigid_from_quaternion
from exo2ego.geometry.fisheye624 import Fisheye624
from exo2ego.geometry.lenses import Lens, Turned, fisheye624_2880_to_1408, make_lens
from pipeline.simulate.traits import TakePlan

GOPRO_HW = (2160, 3840)
GOPRO_BEND = (0.036902, 0.057131, -0.057154, 0.018458)
"""The same in every gopro_calibs.csv seen, as is the centre; focal lengths are 1749 to 1786."""
GOPRO_CENTRE = (1920.0, 1080.0)
BALANCE = 0.8
"""Of OpenCV's choice of a new camera matrix, as Ego-Exo4D's camera_pose was made."""
ARIA_HW = (2880, 2880)
ARIA_RGB = (
    1220.019438822949951, 1461.091249679011071, 1447.087207987354077,
    0.411035882200732, -0.456468282322496, 0.038303075146701,
    1.298336637403988, -1.770471163632234, 0.654993502244781,
    -0.000079203062637, 0.000044207001233,
    -0.000587384169463, 0.00056439365081, 0.000515794638327, 0.000235027249453,
)  # fmt: skip
"""f, cx, cy, k0..k5, p0, p1, s0..s3 of a real camera-rgb at 2880 x 2880, from the example
online_calibration.jsonl of Project Aria's tools (tests/fixtures/aria)."""
ARIA_RGB_QUATERNION_XYZW = (
    0.332483969508643, 0.03396860324855, 0.041655593774964, 0.941575995616059,
)  # fmt: skip
ARIA_RGB_METRES = (-0.004005868551322, -0.011869797002275, -0.004418150827837)
"""T_Device_Camera of the same line: the camera in the frame of the device (camera-slam-left)."""
EGO_CIRCLE = 0.5025
"""Radius of the picture that the glasses' lens throws, over the image's width."""
HALF_PIXEL = 0.5
"""Files count from the middle of the first pixel, the project's lenses from its corner."""

AIM_METRES = {"bike": 0.95, "basketball": 0.95, "covid": 0.80, "cpr": 0.45}
"""Height of what the GoPros look at."""
REACH = {"bike": 1.0, "basketball": 1.25, "covid": 0.92, "cpr": 0.92}
"""How far off they stand, relative to the places below."""
PLACES = (
    (2.0, 1.7, 1.45),
    (-2.0, 1.75, 1.6),
    (-2.1, -1.6, 1.55),
    (2.1, -1.5, 1.7),
    (0.3, 2.2, 1.95),
)


@dataclass(frozen=True)
class ExoCamera:
    """One GoPro."""

    cam_id: str
    focal_px: float
    """At 3840 x 2160."""
    room_from_cam: Float64[Tensor, "4 4"]
    is_localised: bool

    @property
    def lens(self) -> Lens:
        """The lens of the full-size video, pixel centres at +0.5."""
        centre = tuple(value + HALF_PIXEL for value in GOPRO_CENTRE)
        return make_lens("kannala_brandt", (self.focal_px,) * 2 + centre + GOPRO_BEND, GOPRO_HW)


@dataclass(frozen=True)
class Rig:
    """All cameras of a take but for where the head is."""

    exos: tuple[ExoCamera, ...]
    ego_params: tuple[float, ...]
    """As the calibration file has them: f, cx, cy, ... at 2880 x 2880, integer pixel centres."""
    world_from_room: Float64[Tensor, "4 4"]
    """The files' world starts where the glasses were switched on, and is turned anyhow."""

    @property
    def ego_lens(self) -> Lens:
        """The lens of the upright 1408 x 1408 video, pixel centres at +0.5."""
        focal, cx, cy, *bend = self.ego_params
        raw = Fisheye624(focal, focal, cx + HALF_PIXEL, cy + HALF_PIXEL, *bend, hw=ARIA_HW)
        return Turned(fisheye624_2880_to_1408(raw), 1)


def build_rig(plan: TakePlan, first_eye: Float64[Tensor, "4 4"]) -> Rig:
    """The cameras of a take, each a little elsewhere than in other takes."""
    rng = np.random.default_rng([plan.seed, 3])
    start = int(rng.integers(4))
    order = [(start + place) % 4 for place in range(4)] + [4]
    exos = [
        _exo(cam_id, PLACES[place], plan, rng)
        for cam_id, place in zip(plan.exo_ids, order, strict=False)
    ]
    params = np.array(ARIA_RGB)
    params[0] *= rng.uniform(0.997, 1.003)
    params[1:3] += rng.uniform(-6.0, 6.0, 2)
    yaw = rng.uniform(-np.pi, np.pi)
    turned = rigid_from_quaternion(
        torch.tensor([0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)], dtype=torch.float64),
        torch.zeros(3, dtype=torch.float64),
    )
    to_start = torch.eye(4, dtype=torch.float64)
    to_start[:3, 3] = -first_eye[:3, 3]
    return Rig(tuple(exos), tuple(params.tolist()), compose(turned, to_start))


def _exo(
    cam_id: str, place: tuple[float, float, float], plan: TakePlan, rng: np.random.Generator
) -> ExoCamera:
    scale = np.array([REACH[plan.category], REACH[plan.category], 1.0])
    eye = np.array(place) * scale + rng.uniform(-0.12, 0.12, 3)
    aim = np.array([0.0, -0.2, AIM_METRES[plan.category]]) + rng.uniform(-0.1, 0.1, 3)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return ExoCamera(
        cam_id=cam_id,
        focal_px=round(float(rng.uniform(1749.0, 1786.0)), 6),
        room_from_cam=look_at(torch.from_numpy(eye), torch.from_numpy(aim), up),
        is_localised=cam_id not in plan.unlocalised,
    )


def undistorted_focal_px(focal_px: float) -> float:
    """The focal length that OpenCV's fisheye module chooses for the undistorted GoPro image.

    The middles of the image's edges, undistorted, would touch its edges at one focal length a
    pair: the choice lies between the least and the largest, nearer the least by BALANCE.
    Choice: written for a centred lens with square pixels, which all of Ego-Exo4D's are.
    """
    lens = make_lens("kannala_brandt", (focal_px, focal_px, *GOPRO_CENTRE, *GOPRO_BEND), GOPRO_HW)
    half_width, half_height = GOPRO_CENTRE
    edges = torch.tensor([[0.0, half_height], [half_width, 0.0]], dtype=torch.float64)
    directions, _ = lens.unproject(edges)
    x, y, z = directions.abs().unbind(dim=-1)
    focals = (half_width * float(z[0] / x[0]), half_height * float(z[1] / y[1]))
    return BALANCE * min(focals) + (1 - BALANCE) * max(focals)


def raw_from_upright(
    world_from_upright: Float64[Tensor, "*n 4 4"],
) -> Float64[Tensor, "*n 4 4"]:
    """Poses of the sensor as it is built in, on its side, from those of the upright picture."""
    upright_from_raw = torch.tensor(
        [[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64
    )
    return compose(world_from_upright, upright_from_raw)


def device_from_rgb() -> Float64[Tensor, "4 4"]:
    """The glasses' colour camera in the frame of their device."""
    return rigid_from_quaternion(
        torch.tensor(ARIA_RGB_QUATERNION_XYZW, dtype=torch.float64),
        torch.tensor(ARIA_RGB_METRES, dtype=torch.float64),
    )


def world_from_device(
    world_from_upright: Float64[Tensor, "*n 4 4"],
) -> Float64[Tensor, "*n 4 4"]:
    """Poses of the glasses' device frame, as trajectories have them."""
    return compose(raw_from_upright(world_from_upright), invert_rigid(device_from_rgb()))


def quaternions_xyzw(rotations: Float64[np.ndarray, "n 3 3"]) -> Float64[np.ndarray, "n 4"]:
    """Unit quaternions of rotations, from their largest component, which is made positive."""
    trace = rotations[:, 0, 0] + rotations[:, 1, 1] + rotations[:, 2, 2]
    diagonal = [rotations[:, axis, axis] for axis in range(3)]
    squares = np.stack([*(1 + 2 * entry - trace for entry in diagonal), 1 + trace], axis=1)
    every = np.arange(len(rotations))
    largest = squares.argmax(axis=1)
    # Outer product of the quaternion with itself, times four: any row over its root is it.
    outer = np.zeros((len(rotations), 4, 4))
    outer[:, range(4), range(4)] = squares
    for i, j in ((0, 1), (0, 2), (1, 2)):
        outer[:, i, j] = outer[:, j, i] = rotations[:, i, j] + rotations[:, j, i]
    for i, (j, k) in enumerate(((2, 1), (0, 2), (1, 0))):
        outer[:, i, 3] = outer[:, 3, i] = rotations[:, j, k] - rotations[:, k, j]
    return outer[every, largest] / (2 * np.sqrt(squares[every, largest]))[:, None]
