"""Motion as functions of time: paths through points, smooth wandering, picking and placing."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

Times = Float64[np.ndarray, "f"]


@dataclass(frozen=True)
class Path3:
    """Points reached at times, eased in and out between them, lifted in an arc on the way."""

    times: Float64[np.ndarray, "k"]
    points: Float64[np.ndarray, "k 3"]
    lifts: Float64[np.ndarray, "k"]
    """Height in metres of the arc towards the point of the same index."""

    def at(self, times: Times) -> Float64[np.ndarray, "f 3"]:
        """Where the path is; it rests before its first and after its last time."""
        after = np.clip(np.searchsorted(self.times, times, side="right"), 1, len(self.times) - 1)
        span = self.times[after] - self.times[after - 1]
        part = np.clip((times - self.times[after - 1]) / np.maximum(span, 1e-9), 0.0, 1.0)
        part = part**3 * (10 - 15 * part + 6 * part**2)
        start, end = self.points[after - 1], self.points[after]
        place = start + (end - start) * part[:, None]
        place[:, 2] += self.lifts[after] * 4 * part * (1 - part)
        return place


@dataclass
class PathMaker:
    """Collects a path's keys in order of time."""

    times: list[float] = field(default_factory=list)
    points: list[Float64[np.ndarray, "3"]] = field(default_factory=list)
    lifts: list[float] = field(default_factory=list)

    def to(self, time: float, point: Sequence[float] | np.ndarray, lift: float = 0.0) -> None:
        """Adds a point to be reached at a time."""
        self.times.append(float(time))
        self.points.append(np.asarray(point, dtype=np.float64))
        self.lifts.append(float(lift))

    def path(self) -> Path3:
        """The path so far, which then stays where it is."""
        self.to(self.times[-1] + 1.0, self.points[-1])
        return Path3(np.array(self.times), np.stack(self.points), np.array(self.lifts))


def wander(
    rng: np.random.Generator, times: Times, size: float, axes: int = 3
) -> Float64[np.ndarray, "f a"]:
    """Slow smooth noise of about `size`, on each axis its own: three sines of 0.1 to 0.9 Hz."""
    hertz = rng.uniform(0.1, 0.9, (3, axes))
    phase = rng.uniform(0.0, 2 * np.pi, (3, axes))
    waves = np.sin(2 * np.pi * times[:, None, None] * hertz + phase)
    return size * waves.sum(axis=1) / 2


def blend(
    first: Float64[np.ndarray, "*f 3"], second: Float64[np.ndarray, "*f 3"], part: float
) -> Float64[np.ndarray, "*f 3"]:
    """Points so far along from the first to the second."""
    return first + (second - first) * part


@dataclass(frozen=True)
class Errand:
    """One thing carried by one hand: reach for it, carry it, let go, draw back."""

    hand: int
    thing: int
    start_seconds: float
    source: Float64[np.ndarray, "3"]
    target: Float64[np.ndarray, "3"]

    REACH = 0.55
    CARRY = 0.85
    BACK = 0.45

    @property
    def grasp_seconds(self) -> float:
        """When the hand closes."""
        return self.start_seconds + self.REACH

    @property
    def release_seconds(self) -> float:
        """When the hand opens."""
        return self.grasp_seconds + self.CARRY


@dataclass(frozen=True)
class Handling:
    """What a list of errands makes of the hands, the things and the gaze."""

    hands: Float64[np.ndarray, "2 f 3"]
    grips: Float64[np.ndarray, "2 f"]
    things: Float64[np.ndarray, "m f 3"]
    gaze: Float64[np.ndarray, "f 3"]


def handle(
    errands: list[Errand],
    rests: Float64[np.ndarray, "2 3"],
    things: Float64[np.ndarray, "m 3"],
    grasp_above_metres: float,
    times: Times,
) -> Handling:
    """Hands, grips, things and gaze over time, as the errands are run one after another."""
    hands, gaze = (PathMaker(), PathMaker()), PathMaker()
    carried = [PathMaker() for _ in things]
    up = np.array([0.0, 0.0, grasp_above_metres])
    for hand, rest in zip(hands, rests, strict=True):
        hand.to(-10.0, rest)
    for thing, place in zip(carried, things, strict=True):
        thing.to(-10.0, place)
    gaze.to(-10.0, rests.mean(axis=0))
    for errand in errands:
        hand, grasp, release = hands[errand.hand], errand.grasp_seconds, errand.release_seconds
        hand.to(errand.start_seconds, hand.points[-1])
        hand.to(grasp, errand.source + up, 0.05)
        hand.to(release, errand.target + up, 0.11)
        hand.to(release + errand.BACK, rests[errand.hand], 0.04)
        carried[errand.thing].to(grasp, errand.source)
        carried[errand.thing].to(release, errand.target, 0.11)
        gaze.to(errand.start_seconds - 0.1, gaze.points[-1])
        gaze.to(grasp - 0.1, errand.source)
        gaze.to(grasp + 0.1, errand.source)
        gaze.to(release - 0.15, errand.target)
    return Handling(
        hands=np.stack([hand.path().at(times) for hand in hands]),
        grips=np.stack([_grip(errands, hand, times) for hand in range(2)]),
        things=np.stack([thing.path().at(times) for thing in carried]),
        gaze=gaze.path().at(times),
    )


def _grip(errands: list[Errand], hand: int, times: Times) -> Float64[np.ndarray, "f"]:
    """How closed a hand is, 0 to 1: closing for 0.2 s before a grasp, opening after a release."""
    grip = np.zeros_like(times)
    for errand in errands:
        if errand.hand == hand:
            closing = np.clip((times - errand.grasp_seconds) / 0.2 + 1, 0.0, 1.0)
            opening = np.clip((times - errand.release_seconds) / 0.2, 0.0, 1.0)
            grip = np.maximum(grip, np.minimum(closing, 1 - opening))
    return grip
