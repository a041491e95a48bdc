"""What the wearer does in each of the four categories, as functions of time."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from pipeline.simulate.bodies import Shape, capsule_poses, turn
from pipeline.simulate.motion import Errand, PathMaker, Times, blend, handle, wander
from pipeline.simulate.person import Deeds

TABLE_TOP = 0.74
"""Height of the table in metres."""
CRANK = np.array([0.02, -0.06, 0.90])
"""Bottom bracket of the bicycle in its stand."""
CHEST = np.array([0.0, 0.12, 0.24])
"""Top of the dummy's chest."""


@dataclass(frozen=True)
class Prop:
    """A thing that moves, of one body."""

    shape: Shape
    room_from_body: Float64[np.ndarray, "f 4 4"]
    size: Float64[np.ndarray, "3"]
    paint: str


@dataclass(frozen=True)
class Act:
    """A person's deeds and the things that move with them."""

    deeds: Deeds
    props: tuple[Prop, ...]
    support_metres: float
    """Height of what the hands work above: where their shadow falls."""


def perform(category: str, seed: int, times: Times, seconds: float) -> Act:
    """The act of a category, a function of seed and time alone (planned `seconds` ahead)."""
    rng = np.random.default_rng([seed, 1])
    return {"bike": _bike, "basketball": _basketball, "covid": _covid, "cpr": _cpr}[category](
        rng, times, seconds
    )


def _placed(place: Float64[np.ndarray, "f 3"], yaw: float = 0.0) -> Float64[np.ndarray, "f 4 4"]:
    pose = np.zeros((len(place), 4, 4))
    pose[:, :3, :3] = turn("z", yaw)
    pose[:, :3, 3] = place
    pose[:, 3, 3] = 1.0
    return pose


def _stance(hips: tuple[float, float, float], rng: np.random.Generator, times: Times) -> np.ndarray:
    return np.array(hips) + wander(rng, times, 0.008)


def _feet(aside: float, y: float, z: float = 0.08) -> np.ndarray:
    return np.array([[-aside, y, z], [aside, y, z]])


def _errands(
    rng: np.random.Generator, spots: np.ndarray, sides: np.ndarray, seconds: float
) -> list[Errand]:
    """Errands that take turns between hands; each hand only has the spots of its own side."""
    things = np.array([np.flatnonzero(sides == hand)[:2] for hand in range(2)])
    place = {int(thing): spots[thing] for pair in things for thing in pair}
    free = {hand: spots[np.flatnonzero(sides == hand)[2]] for hand in range(2)}
    errands, clock, hand = list[Errand](), float(rng.uniform(-0.6, 0.1)), int(rng.integers(2))
    while clock < seconds + 1:
        thing = int(rng.choice(things[hand]))
        errands.append(Errand(hand, thing, clock, place[thing], free[hand]))
        place[thing], free[hand] = free[hand], place[thing]
        hand, clock = 1 - hand, clock + float(rng.uniform(1.15, 1.6))
    return errands


def _covid(rng: np.random.Generator, times: Times, seconds: float) -> Act:
    """Sits at a table and moves a kit's boxes and bottles about."""
    at = np.array(
        [[-0.34, -0.05], [-0.16, -0.16], [-0.15, 0.0], [0.34, -0.05], [0.16, -0.16], [0.15, 0.0]]
    )
    at = at + rng.uniform(-0.02, 0.02, at.shape)
    spots = np.concatenate([at, np.full((6, 1), TABLE_TOP)], axis=1)
    sides = np.array([0, 0, 0, 1, 1, 1])
    rests = np.array([[-0.22, -0.27, TABLE_TOP + 0.03], [0.22, -0.27, TABLE_TOP + 0.03]])
    errands = _errands(rng, spots, sides, seconds)
    kit = [
        (Shape.BOX, (0.05, 0.035, 0.035), "kit"),
        (Shape.CAPSULE, (0.022, 0.022, 0.035), "green"),
        (Shape.BOX, (0.045, 0.03, 0.018), "blue"),
        (Shape.CAPSULE, (0.026, 0.026, 0.03), "red"),
        (Shape.BOX, (0.03, 0.03, 0.03), "dice"),
    ]
    which = [0, 1, 3, 4]
    done = handle(errands, rests, spots, 0.05, times)
    props = []
    for thing, (shape, size, paint) in zip(which, kit, strict=False):
        lift = size[2] + (size[0] if shape == Shape.CAPSULE else 0.0)
        pose = _placed(done.things[thing] + np.array([0.0, 0.0, lift]), float(rng.uniform(-1, 1)))
        props.append(Prop(shape, pose, np.array(size), paint))
    hips = _stance((0.0, -0.60, 0.56), rng, times)
    lean = 0.30 + wander(rng, times, 0.03, 1)[:, 0]
    deeds = Deeds(
        done.hands, done.grips, done.gaze, hips, lean, _feet(0.14, -0.28), wander(rng, times, 0.05)
    )
    return Act(deeds, tuple(props), TABLE_TOP)


def _bike(rng: np.random.Generator, times: Times, seconds: float) -> Act:
    """Stands before a bicycle in a stand: one hand turns the pedal, the other brings a wrench."""
    hertz, phase = rng.uniform(0.35, 0.5), rng.uniform(0, 2 * np.pi)
    angle = 2 * np.pi * hertz * times + phase + 0.5 * wander(rng, times, 1.0, 1)[:, 0]
    arm = np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], axis=-1) * 0.15
    pedal = CRANK + arm + np.array([0.0, -0.05, 0.0])
    spots = np.array([[-0.20, -0.12, 1.20], [-0.42, -0.10, 1.02], [-0.12, -0.10, 0.98]])
    spots = spots + rng.uniform(-0.02, 0.02, spots.shape)
    wrench, busy = PathMaker(), PathMaker()
    clock, spot = float(rng.uniform(-1.5, -0.5)), 0
    wrench.to(-10.0, spots[0])
    busy.to(-10.0, CRANK)
    while clock < seconds + 1:
        spot = (spot + int(rng.integers(1, 3))) % len(spots)
        wrench.to(clock, wrench.points[-1])
        wrench.to(clock + 0.9, spots[spot], 0.05)
        busy.to(clock - 0.3, busy.points[-1])
        busy.to(clock + 0.3, blend(CRANK, spots[spot], 0.8))
        busy.to(clock + 1.3, busy.points[-1])
        busy.to(clock + 1.7, CRANK)
        clock += float(rng.uniform(2.0, 2.8))
    tool = wrench.path().at(times) + wander(rng, times, 0.012)
    turning = 0.35 * np.sin(2 * np.pi * 1.3 * times)
    end = tool + 0.11 * np.stack([np.sin(turning), np.full_like(times, 0.5), np.cos(turning)], -1)
    pose, size = capsule_poses(tool, end, np.full(len(times), 0.012))
    hands = np.stack([tool + np.array([0.0, -0.02, 0.0]), pedal + np.array([0.0, -0.03, 0.0])])
    deeds = Deeds(
        hands,
        np.full((2, len(times)), 0.8),
        busy.path().at(times) + 0.3 * arm,
        _stance((0.0, -0.56, 0.90), rng, times),
        0.42 + wander(rng, times, 0.03, 1)[:, 0],
        _feet(0.15, -0.60),
        wander(rng, times, 0.06),
    )
    props = (Prop(Shape.CAPSULE, pose, size[0], "red"), *_drive(angle, arm))
    return Act(deeds, props, 0.0)


def _drive(angle: Float64[np.ndarray, "f"], arm: Float64[np.ndarray, "f 3"]) -> tuple[Prop, ...]:
    """Cranks, pedals and the spokes of both wheels, turning together."""
    radius, count = np.full(len(angle), 0.014), 5
    props = list[Prop]()
    for sign, aside in ((1.0, -0.05), (-1.0, 0.05)):
        hub = CRANK + np.array([0.0, aside, 0.0])
        pose, size = capsule_poses(np.broadcast_to(hub, arm.shape), hub + sign * arm, radius)
        props.append(Prop(Shape.CAPSULE, pose, size[0], "metal"))
        sole = _placed(hub + sign * arm + np.array([0.0, aside, 0.0]))
        props.append(Prop(Shape.BOX, sole, np.array([0.045, 0.04, 0.012]), "rubber"))
    for wheel_x in (-0.50, 0.52):
        hub = np.array([wheel_x, 0.0, CRANK[2] + 0.05])
        for spoke in range(count):
            turned = 2.2 * angle + 2 * np.pi * spoke / count
            rim = hub + 0.31 * np.stack([np.cos(turned), 0 * turned, np.sin(turned)], axis=-1)
            pose, size = capsule_poses(np.broadcast_to(hub, rim.shape), rim, radius * 0.35)
            props.append(Prop(Shape.CAPSULE, pose, size[0], "metal"))
    return tuple(props)


def _basketball(rng: np.random.Generator, times: Times, seconds: float) -> Act:
    """Stands on a court and dribbles, changing hands now and then, with looks at the hoop."""
    period, phase, radius = rng.uniform(0.70, 0.85), rng.uniform(0, 1), 0.12
    beat = times / period + phase
    high = 1 - np.abs(2 * (beat % 1.0) - 1)
    top, aside = 0.92, 0.26
    first, count = int(np.floor(-12 / period)), int(np.ceil((seconds + 14) / period))
    sides = np.repeat(rng.integers(0, 2, count // 3 + 1), 3)[:count] * 2.0 - 1
    bounce = np.clip(np.floor(beat).astype(np.int64) - first, 0, count - 2)
    across = (sides[bounce] + (sides[bounce + 1] - sides[bounce]) * (beat % 1.0)) * aside
    ball = np.stack([across, -0.02 + 0 * times, radius + (top - radius) * (1 - high**2)], axis=-1)
    hands = []
    for sign in (-1.0, 1.0):
        guard = np.array([sign * 0.33, -0.08, 1.02]) + wander(rng, times, 0.03)
        near = np.clip(1.3 - np.abs(across - sign * aside) / aside, 0, 1)[:, None]
        push = ball + np.array([0.0, -0.01, radius + 0.035])
        push[:, 2] = np.maximum(push[:, 2], 0.86 + 0.05 * (1 - high))
        hands.append(guard + (push - guard) * near)
    look = PathMaker()
    look.to(-10.0, (0.0, 0.1, 0.5))
    clock = float(rng.uniform(0.5, 1.5))
    while clock < seconds + 1:
        look.to(clock, look.points[-1])
        look.to(clock + 0.5, (rng.uniform(-0.5, 0.5), 1.6, 1.1))
        look.to(clock + 0.9, look.points[-1])
        look.to(clock + 1.4, (0.0, 0.1, 0.5))
        clock += float(rng.uniform(2.2, 3.2))
    gaze = look.path().at(times) + np.stack([0.5 * across, 0 * across, 0.1 * ball[:, 2]], axis=-1)
    hips = _stance((0.0, -0.42, 0.80), rng, times) + 0.02 * np.stack(
        [across * 2, 0 * across, high], axis=-1
    )
    deeds = Deeds(
        np.stack(hands),
        np.full((2, len(times)), 0.1),
        gaze,
        hips,
        0.40 + wander(rng, times, 0.03, 1)[:, 0],
        _feet(0.24, -0.45),
        wander(rng, times, 0.06),
    )
    spin = _placed(ball)
    return Act(deeds, (Prop(Shape.CAPSULE, spin, np.array([radius, radius, 0.0]), "ball"),), 0.0)


def _cpr(rng: np.random.Generator, times: Times, seconds: float) -> Act:
    """Kneels by a dummy and pumps its chest; every few seconds a look, and a hand, to its face."""
    hertz = rng.uniform(1.7, 2.0)
    check = PathMaker()
    check.to(-10.0, (0.0, 0.0, 0.0))
    clock = float(rng.uniform(1.5, 3.5))
    while clock < seconds + 1:
        for offset, state in ((0.0, 0.0), (0.6, 1.0), (1.5, 1.0), (2.1, 0.0)):
            check.to(clock + offset, (state, 0.0, 0.0))
        clock += float(rng.uniform(4.5, 6.0))
    away = check.path().at(times)[:, 0]
    pump = (0.5 - 0.5 * np.cos(2 * np.pi * hertz * times)) * (1 - away)
    press = np.stack([0 * pump, 0 * pump, -0.055 * pump], axis=-1)
    stacked = CHEST + np.array([0.0, 0.0, 0.045]) + press
    face = np.array([-0.36, 0.06, 0.26]) + wander(rng, times, 0.01)
    left = stacked + (face - stacked) * away[:, None] + np.array([-0.01, -0.01, 0.03])
    gaze = CHEST + (np.array([-0.42, 0.12, 0.2]) - CHEST) * away[:, None]
    hips = _stance((0.0, -0.46, 0.46), rng, times) + 0.4 * press
    deeds = Deeds(
        np.stack([left, stacked + np.array([0.01, 0.0, 0.0])]),
        np.full((2, len(times)), 0.15),
        gaze + 0.3 * press,
        hips,
        0.80 + 0.06 * pump + wander(rng, times, 0.02, 1)[:, 0],
        _feet(0.13, -0.80),
        wander(rng, times, 0.05),
    )
    chest = _placed(np.array([0.0, 0.14, 0.14]) + press)
    return Act(deeds, (Prop(Shape.BOX, chest, np.array([0.17, 0.14, 0.09]), "vest"),), 0.2)
