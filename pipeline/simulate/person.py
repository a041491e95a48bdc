"""The wearer: a skeleton posed by what hands, gaze and hips do, its body, and the head's camera."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64

from exo2ego.geometry.camera import look_at
from pipeline.simulate.bodies import Bodies, Shape, capsule_poses

TORSO, UPPER_ARM, FOREARM, PALM = 0.50, 0.29, 0.27, 0.085
THIGH, SHIN = 0.43, 0.43
"""Bone lengths in metres, of a person of about 1.75 m."""
EYE_FORWARD, EYE_UP, EYE_LEFT = 0.10, 0.035, 0.05
"""Where the glasses' colour camera sits from the middle of the head, in metres."""
FINGERS = ((-0.033, 0.072), (-0.011, 0.082), (0.011, 0.078), (0.033, 0.062))
"""Sideways place and length, in metres, of each finger at its knuckle."""

Points = Float64[np.ndarray, "f 3"]


@dataclass(frozen=True)
class Deeds:
    """What a person does over time; everything else of the body follows from it."""

    hands: Float64[np.ndarray, "2 f 3"]
    """Middle of what the left and the right hand hold or touch."""
    grips: Float64[np.ndarray, "2 f"]
    """0 open, 1 closed."""
    gaze: Points
    hips: Points
    lean: Float64[np.ndarray, "f"]
    """Of the torso, forward, in radians."""
    feet: Float64[np.ndarray, "2 3"]
    unrest: Float64[np.ndarray, "f 3"]
    """Small turns of the head, in metres at the gaze's target."""


@dataclass(frozen=True)
class Dress:
    """Texture numbers of a person's skin and clothes."""

    skin: int
    hair: int
    shirt: int
    trousers: int
    shoes: int


@dataclass(frozen=True)
class Skeleton:
    """Joints over time. The person faces +y; left is -x."""

    hips: Points
    neck: Points
    head: Points
    head_axes: Float64[np.ndarray, "f 3 3"]
    """Columns: right, up, forward of the head."""
    shoulders: Float64[np.ndarray, "2 f 3"]
    elbows: Float64[np.ndarray, "2 f 3"]
    wrists: Float64[np.ndarray, "2 f 3"]
    hips_joints: Float64[np.ndarray, "2 f 3"]
    knees: Float64[np.ndarray, "2 f 3"]
    ankles: Float64[np.ndarray, "2 f 3"]
    fingers_forward: Float64[np.ndarray, "2 f 3"]


def skeleton(deeds: Deeds) -> Skeleton:
    """The joints that carry out the deeds, arms and legs by two-bone reach."""
    spine = _spine(deeds.lean)
    neck = deeds.hips + TORSO * spine
    head = neck + 0.10 * spine + np.array([0.0, 0.045, 0.09])
    right, side = np.array([1.0, 0.0, 0.0]), np.array([-1.0, 1.0])[:, None, None]
    shoulders = neck - 0.06 * spine + side * 0.19 * right
    forward = _fingers_forward(shoulders, deeds.hands)
    elbows, wrists = bend(
        shoulders, deeds.hands - PALM * forward, UPPER_ARM, FOREARM, side * 0.5 * right - DOWNBACK
    )
    hips_joints = deeds.hips + side * 0.10 * right
    ankles = np.broadcast_to(deeds.feet[:, None], hips_joints.shape)
    knees, ankles = bend(hips_joints, ankles, THIGH, SHIN, np.array([0.0, 1.0, 0.2]) + side * 0.2)
    return Skeleton(
        hips=deeds.hips,
        neck=neck,
        head=head,
        head_axes=_head_axes(head, deeds.gaze + deeds.unrest),
        shoulders=shoulders,
        elbows=elbows,
        wrists=wrists,
        hips_joints=hips_joints,
        knees=knees,
        ankles=ankles,
        fingers_forward=forward,
    )


DOWNBACK = np.array([0.0, 0.35, 1.0])
"""Elbows hang away from this."""


def _spine(lean: Float64[np.ndarray, "f"]) -> Points:
    return np.stack([np.zeros_like(lean), np.sin(lean), np.cos(lean)], axis=-1)


def _fingers_forward(
    shoulders: Float64[np.ndarray, "2 f 3"], hands: Float64[np.ndarray, "2 f 3"]
) -> Float64[np.ndarray, "2 f 3"]:
    """Where the fingers point: on from the shoulder, levelled out, a little down and inwards."""
    onward = hands - shoulders
    onward[..., 2] = 0.0
    onward = unit(onward) + np.array([0.0, 0.5, -0.55])
    onward[..., 0] *= 0.5
    return unit(onward)


def _head_axes(head: Points, target: Points) -> Float64[np.ndarray, "f 3 3"]:
    """The head turned most of the way to its target: the eyes do the rest."""
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    onward = unit(target - head)
    onward[:, 2] = np.maximum(onward[:, 2], -0.88)
    onward[:, 1] = np.maximum(onward[:, 1], 0.25)
    pose = look_at(torch.from_numpy(head), torch.from_numpy(head + unit(onward)), up).numpy()
    return np.stack([pose[:, :3, 0], -pose[:, :3, 1], pose[:, :3, 2]], axis=-1)


def bend(
    start: Float64[np.ndarray, "2 f 3"],
    end: Float64[np.ndarray, "2 f 3"],
    first: float,
    second: float,
    pole: Float64[np.ndarray, "..."],
) -> tuple[Float64[np.ndarray, "2 f 3"], Float64[np.ndarray, "2 f 3"]]:
    """Middle joint of two bones, bent towards the pole, and their end: nearer if out of reach."""
    onward = end - start
    gap = np.sqrt((onward**2).sum(axis=-1, keepdims=True))
    onward = onward / gap
    gap = np.clip(gap, abs(first - second) + 0.03, (first + second) * 0.998)
    along = (first**2 - second**2 + gap**2) / (2 * gap)
    pole = np.broadcast_to(pole, onward.shape)
    aside = unit(pole - (pole * onward).sum(axis=-1, keepdims=True) * onward)
    height = np.sqrt(np.maximum(first**2 - along**2, 0.0))
    return start + along * onward + height * aside, start + gap * onward


def unit(vectors: Float64[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
    """The vectors' directions."""
    return vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True))


def room_from_eye(bones: Skeleton) -> Float64[np.ndarray, "f 4 4"]:
    """Poses of the glasses' colour camera, upright (x right, y down, z forward), tipped down."""
    right, up, forward = (bones.head_axes[..., axis] for axis in range(3))
    pose = np.zeros((len(right), 4, 4))
    eye = bones.head + EYE_FORWARD * forward + EYE_UP * up - EYE_LEFT * right
    pose[:, :3, :] = np.stack([right, -up, forward, eye], axis=-1)
    pose[:, 3, 3] = 1.0
    return pose


@dataclass(frozen=True)
class MovingBodies:
    """Bodies whose poses and sizes change from frame to frame."""

    bodies: Bodies
    room_from_body: Float64[np.ndarray, "n f 4 4"]
    size: Float64[np.ndarray, "n f 3"]
    in_ego: Bool[np.ndarray, "n"]
    """False for what the wearer's own camera never sees: the head that it sits on."""

    def at(self, frame: int, *, in_ego: bool) -> Bodies:
        """The bodies at one frame, all of them or those that the wearer can see."""
        now = self.bodies.moved(self.room_from_body[:, frame], self.size[:, frame])
        return now.chosen(self.in_ego) if in_ego else now


@dataclass
class BodyMaker:
    """Collects moving capsules and boxes."""

    shapes: list[int]
    poses: list[np.ndarray]
    sizes: list[np.ndarray]
    paints: list[int]
    in_ego: list[bool]

    def limb(
        self, start: Points, end: Points, radius: float, paint: int, in_ego: bool = True
    ) -> None:
        """Adds a capsule that follows two joints."""
        pose, size = capsule_poses(start, end, np.full(len(start), radius))
        self.body(Shape.CAPSULE, pose, size, paint, in_ego)

    def body(
        self, shape: Shape, pose: np.ndarray, size: np.ndarray, paint: int, in_ego: bool = True
    ) -> None:
        """Adds any body by its poses and sizes."""
        self.shapes.append(int(shape))
        self.poses.append(pose)
        self.sizes.append(np.broadcast_to(size, (len(pose), 3)))
        self.paints.append(paint)
        self.in_ego.append(in_ego)

    def moving(self) -> MovingBodies:
        """All that was added."""
        poses, sizes = np.stack(self.poses), np.stack(self.sizes).astype(np.float64)
        still = Bodies(
            shape=np.array(self.shapes),
            room_from_body=poses[:, 0],
            size=sizes[:, 0],
            paint=np.array(self.paints),
            per_metre=np.full(len(poses), 4.0),
        )
        return MovingBodies(still, poses, sizes, np.array(self.in_ego))


def add_person(maker: BodyMaker, bones: Skeleton, grips: np.ndarray, dress: Dress) -> None:
    """Adds the wearer's whole body to the moving ones."""
    _add_trunk(maker, bones, dress)
    for side in range(2):
        maker.limb(bones.shoulders[side], bones.elbows[side], 0.052, dress.shirt)
        sleeve = bones.elbows[side] + 0.45 * (bones.wrists[side] - bones.elbows[side])
        maker.limb(bones.elbows[side], sleeve, 0.046, dress.shirt)
        maker.limb(sleeve, bones.wrists[side], 0.034, dress.skin)
        maker.limb(bones.hips_joints[side], bones.knees[side], 0.078, dress.trousers)
        maker.limb(bones.knees[side], bones.ankles[side], 0.055, dress.trousers)
        toe = bones.ankles[side] + np.array([0.0, 0.17, -0.03])
        maker.limb(bones.ankles[side] - np.array([0.0, 0.04, 0.03]), toe, 0.045, dress.shoes)
        _add_hand(maker, bones, side, grips[side], dress.skin)


def _add_trunk(maker: BodyMaker, bones: Skeleton, dress: Dress) -> None:
    right = np.array([1.0, 0.0, 0.0])
    spine = unit(bones.neck - bones.hips)
    chest = bones.neck - 0.16 * spine
    for sign in (-1, 1):
        maker.limb(
            bones.hips + sign * 0.07 * right, chest + sign * 0.085 * right, 0.105, dress.shirt
        )
    maker.limb(bones.shoulders[0], bones.shoulders[1], 0.065, dress.shirt)
    maker.limb(bones.hips - 0.08 * right, bones.hips + 0.08 * right, 0.115, dress.trousers)
    head_up, head_forward = bones.head_axes[..., 1], bones.head_axes[..., 2]
    maker.limb(bones.neck, bones.head - 0.03 * head_up, 0.052, dress.skin, in_ego=False)
    maker.limb(
        bones.head - 0.055 * head_up + 0.02 * head_forward,
        bones.head + 0.03 * head_up,
        0.088,
        dress.skin,
        in_ego=False,
    )
    maker.limb(
        bones.head + 0.02 * head_up - 0.03 * head_forward,
        bones.head + 0.055 * head_up - 0.005 * head_forward,
        0.093,
        dress.hair,
        in_ego=False,
    )
    nose = bones.head + 0.105 * head_forward - 0.015 * head_up
    maker.limb(nose, nose - 0.03 * head_up, 0.012, dress.skin, in_ego=False)
    _add_glasses(maker, bones, dress)


def _add_glasses(maker: BodyMaker, bones: Skeleton, dress: Dress) -> None:
    right, up, forward = (bones.head_axes[..., axis] for axis in range(3))
    front = bones.head + 0.09 * forward + 0.03 * up
    for sign in (-1, 1):
        hinge = front + sign * 0.075 * right
        maker.limb(front, hinge, 0.013, dress.shoes, in_ego=False)
        maker.limb(hinge, hinge - 0.11 * forward, 0.007, dress.shoes, in_ego=False)


def _add_hand(maker: BodyMaker, bones: Skeleton, side: int, grip: np.ndarray, skin: int) -> None:
    """A palm of two capsules, four fingers of two each and a thumb, curled by the grip."""
    forward, wrist = bones.fingers_forward[side], bones.wrists[side]
    inward = np.array([1.0 if side == 0 else -1.0, 0.0, 0.0])
    across = unit(inward - (forward * inward).sum(axis=-1, keepdims=True) * forward)
    palm_down = np.cross(forward, across) * (1.0 if side == 0 else -1.0)
    knuckles = wrist + PALM * forward
    for sign in (-1, 1):
        maker.limb(wrist + sign * 0.012 * across, knuckles + sign * 0.022 * across, 0.021, skin)
    curl = (0.35 + 0.75 * grip)[:, None]
    for aside, length in FINGERS:
        root = knuckles + aside * across
        middle = root + length / 2 * unit(forward + 0.7 * curl * palm_down)
        tip = middle + length / 2 * unit((1.05 - curl) * forward + 1.3 * curl * palm_down)
        maker.limb(root, middle, 0.0105, skin)
        maker.limb(middle, tip, 0.0095, skin)
    root = wrist + 0.03 * forward + 0.03 * across
    middle = root + 0.045 * unit(forward + 0.9 * across + 0.3 * palm_down)
    maker.limb(root, middle, 0.0135, skin)
    maker.limb(
        middle, middle + 0.035 * unit(forward + curl * palm_down - 0.2 * across), 0.011, skin
    )
