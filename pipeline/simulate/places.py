"""Where each category happens: the room, its furniture and decoration, and soft shadows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from pipeline.simulate import textures
from pipeline.simulate.acts import CRANK, TABLE_TOP
from pipeline.simulate.bodies import Bodies, Shape, ball, box, capsule, join
from pipeline.simulate.textures import Palette, Rgb

ROOM_METRES = {
    "bike": (6.4, 5.4, 2.9),
    "basketball": (9.0, 8.0, 4.2),
    "covid": (5.8, 5.0, 2.7),
    "cpr": (6.0, 5.2, 2.8),
}


Shade = tuple[float | int, ...]
"""A soft shadow: centre and radius in metres, and how dark (0 to 1)."""


@dataclass(frozen=True)
class Place:
    """Everything that does not move, its textures and its shadows."""

    bodies: Bodies
    palette: Palette
    shades: Float64[np.ndarray, "s 5"]
    lamp: Float64[np.ndarray, "3"]


def furnish(category: str, seed: int) -> Place:
    """The place of a category; colours and decoration vary with the seed."""
    rng = np.random.default_rng([seed, 2])
    palette = Palette(rng)
    length, width, height = ROOM_METRES[category]
    room = _room(palette, rng, category, (length, width, height))
    _paints(palette, rng)
    walls = _decoration(palette, rng, (length, width, height))
    furniture, shades = {"bike": _workshop, "basketball": _court, "covid": _table, "cpr": _mat}[
        category
    ](palette)
    lamp = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.4, 0.8), height - 0.25])
    return Place(join(room, *walls, *furniture), palette, np.array(shades), lamp)


def _hue(rng: np.random.Generator, low: float, high: float) -> Rgb:
    red, green, blue = rng.uniform(low, high, 3)
    return float(red), float(green), float(blue)


def _room(
    palette: Palette, rng: np.random.Generator, category: str, sides: tuple[float, float, float]
) -> Bodies:
    """The room from inside; its six faces are the six textures that follow the first."""
    first = palette.add("wall -x", textures.plain, _hue(rng, 0.55, 0.85))
    palette.add("wall +x", textures.stripes, _hue(rng, 0.6, 0.8), _hue(rng, 0.7, 0.9))
    palette.add("wall -y", textures.plain, _hue(rng, 0.6, 0.85))
    palette.add("wall +y", textures.brick, _hue(rng, 0.45, 0.75), (0.75, 0.73, 0.7))
    if category in ("basketball", "cpr"):
        palette.add("floor", textures.wood, (0.80, 0.60, 0.38), (0.62, 0.43, 0.25))
    elif category == "covid":
        palette.add("floor", textures.checker, (0.72, 0.72, 0.70), (0.50, 0.53, 0.56))
    else:
        palette.add("floor", textures.plain, (0.52, 0.52, 0.50), strength=0.35)
    palette.add("ceiling", textures.plain, (0.92, 0.92, 0.90))
    return box((0.0, 0.0, sides[2] / 2), sides, first, per_metre=0.8, shape=Shape.ROOM)


def _paints(palette: Palette, rng: np.random.Generator) -> None:
    """Textures of things and of the person, under the names that acts and furniture use."""
    plain = {
        "metal": (0.72, 0.74, 0.77),
        "rubber": (0.13, 0.13, 0.14),
        "red": (0.80, 0.16, 0.13),
        "green": (0.15, 0.60, 0.30),
        "blue": (0.15, 0.35, 0.75),
        "white": (0.92, 0.92, 0.90),
        "frame": _hue(rng, 0.15, 0.8),
        "dummy": (0.83, 0.67, 0.55),
        "mat": _hue(rng, 0.25, 0.6),
        "hair": (0.16, 0.10, 0.07),
        "shoes": (0.10, 0.10, 0.12),
        "leaf": (0.20, 0.45, 0.18),
    }
    for name, colour in plain.items():
        palette.add(name, textures.plain, colour)
    tone = float(rng.uniform(0.45, 1.0))
    palette.add("skin", textures.plain, (0.93 * tone, 0.70 * tone, 0.56 * tone))
    palette.add("shirt", textures.stripes, _hue(rng, 0.1, 0.55), _hue(rng, 0.5, 0.95))
    palette.add("trousers", textures.plain, _hue(rng, 0.12, 0.35), strength=0.3)
    palette.add("kit", textures.poster, (0.95, 0.95, 0.97), (0.1, 0.3, 0.7), (0.9, 0.2, 0.2))
    palette.add("dice", textures.checker, (0.95, 0.75, 0.10), (0.20, 0.20, 0.25))
    palette.add("vest", textures.stripes, (0.75, 0.20, 0.18), (0.90, 0.88, 0.85), count=3)
    palette.add("ball", textures.checker, (0.88, 0.45, 0.14), (0.70, 0.32, 0.10))
    palette.add("tabletop", textures.wood, (0.72, 0.52, 0.33), (0.52, 0.35, 0.20))
    palette.add("shelf", textures.wood, (0.60, 0.45, 0.32), (0.45, 0.32, 0.22))
    palette.add("books", textures.stripes, _hue(rng, 0.2, 0.8), _hue(rng, 0.2, 0.8), count=5)


def _decoration(
    palette: Palette, rng: np.random.Generator, sides: tuple[float, float, float]
) -> list[Bodies]:
    """Posters, a window, a door, a shelf of books and a plant, so that no two views look alike."""
    x, y = sides[0] / 2, sides[1] / 2
    things = list[Bodies]()
    for number, (px, py, on_x) in enumerate(
        [(-1.3, y, False), (1.1, y, False), (x, -0.6, True), (-x, 0.7, True), (1.6, -y, False)]
    ):
        paint = palette.add(
            f"poster {number}",
            textures.poster,
            _hue(rng, 0.5, 1.0),
            _hue(rng, 0.0, 0.3),
            _hue(rng, 0.2, 0.9),
        )
        size = (0.02, 0.8, 1.0) if on_x else (0.8, 0.02, 1.0)
        things.append(box((px, py, 1.6), size, paint, per_metre=1.25))
    things += [
        box((-1.4, -y, 1.0), (0.9, 0.06, 2.0), palette["shelf"]),
        ball(np.array([-1.08, -y + 0.06, 1.0]), 0.035, palette["metal"]),
        box((x, 1.2, 1.55), (0.04, 1.3, 1.1), palette["white"]),
        box((x - 0.02, 1.2, 1.55), (0.05, 1.15, 0.95), palette["blue"]),
        box((x - 0.04, 1.2, 1.55), (0.05, 0.05, 1.0), palette["white"]),
        box((-x + 0.17, -1.2, 0.9), (0.3, 1.2, 0.04), palette["shelf"]),
        box((-x + 0.17, -1.2, 1.35), (0.3, 1.2, 0.04), palette["shelf"]),
        box((-x + 0.17, -1.35, 1.05), (0.2, 0.8, 0.26), palette["books"], per_metre=2.0),
        box((-x + 0.17, -1.0, 1.50), (0.2, 0.5, 0.26), palette["books"], per_metre=3.0),
    ]
    pot = np.array([x - 0.45, y - 0.45, 0.0])
    for offset, radius, paint in (
        ((0, 0, 0.16), 0.17, "red"),
        ((0, 0, 0.62), 0.26, "leaf"),
        ((0.1, -0.1, 0.92), 0.20, "leaf"),
        ((-0.12, 0, 0.98), 0.17, "leaf"),
    ):
        things.append(ball(pot + np.array(offset), radius, palette[paint]))
    return things


def _legs(half_x: float, half_y: float, top: float, paint: int) -> list[Bodies]:
    return [
        box((sx * half_x, sy * half_y, top / 2), (0.05, 0.05, top), paint)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]


def _table(palette: Palette) -> tuple[list[Bodies], list[Shade]]:
    """A table with a stool, and what stands on the table unmoved."""
    bodies = [
        box((0, 0, TABLE_TOP - 0.02), (1.3, 0.75, 0.04), palette["tabletop"], per_metre=1.2),
        *_legs(0.58, 0.31, TABLE_TOP - 0.04, palette["metal"]),
        box((0, -0.60, 0.42), (0.38, 0.36, 0.05), palette["red"]),
        capsule(np.array([0, -0.60, 0.03]), np.array([0, -0.60, 0.40]), 0.03, palette["metal"]),
        box((0.0, 0.02, TABLE_TOP + 0.001), (0.26, 0.22, 0.003), palette["white"]),
        box(
            (-0.42, 0.24, TABLE_TOP + 0.06),
            (0.20, 0.14, 0.12),
            palette["kit"],
            yaw=0.3,
            per_metre=5.0,
        ),
        box((0.45, 0.22, TABLE_TOP + 0.02), (0.22, 0.16, 0.04), palette["books"], yaw=-0.4),
        capsule(
            np.array([0.20, 0.26, TABLE_TOP + 0.03]),
            np.array([0.20, 0.26, TABLE_TOP + 0.15]),
            0.035,
            palette["green"],
        ),
    ]
    shades = [
        (0, 0, 0.0, 0.95, 0.5),
        (-0.42, 0.24, TABLE_TOP, 0.19, 0.4),
        (0.45, 0.22, TABLE_TOP, 0.18, 0.3),
        (0.20, 0.26, TABLE_TOP, 0.10, 0.5),
    ]
    return bodies, shades


def _ring(
    hub: np.ndarray, radius: float, thick: float, paint: int, pieces: int = 18
) -> list[Bodies]:
    """A tyre of short capsules, in the x-z plane."""
    angle = 2 * np.pi * np.arange(pieces + 1) / pieces
    rim = hub + radius * np.stack([np.cos(angle), 0 * angle, np.sin(angle)], axis=-1)
    return [capsule(rim[i], rim[i + 1], thick, paint) for i in range(pieces)]


def _workshop(palette: Palette) -> tuple[list[Bodies], list[Shade]]:
    """A bicycle in a stand, and a bench of tools beside it."""
    frame, metal = palette["frame"], palette["metal"]
    rear, front = CRANK * [0, 0, 1] + [-0.50, 0.0, 0.05], CRANK * [0, 0, 1] + [0.52, 0.0, 0.05]
    bracket, saddle = np.array([CRANK[0], 0.0, CRANK[2]]), np.array([-0.17, 0.0, 1.42])
    clamp, head = np.array([-0.14, 0.0, 1.32]), np.array([0.40, 0.0, 1.40])
    tubes = [
        (bracket, clamp, 0.018),
        (clamp, head, 0.018),
        (bracket, head, 0.022),
        (rear, bracket, 0.012),
        (rear, clamp, 0.011),
        (front, head, 0.014),
    ]
    back = np.array([0.1, 0.0, 0.0])
    bodies = [capsule(a, b, radius, frame) for a, b, radius in tubes]
    for hub in (rear, front):
        bodies += _ring(hub, 0.33, 0.017, palette["rubber"])
        bodies.append(ball(hub, 0.03, metal))
    bodies += [
        capsule(clamp, saddle, 0.014, metal),
        capsule(saddle - back, saddle + 1.3 * back, 0.035, palette["rubber"]),
        capsule(head, head + np.array([0.05, 0, 0.10]), 0.014, metal),
        capsule(
            head + np.array([0.05, -0.22, 0.10]),
            head + np.array([0.05, 0.22, 0.10]),
            0.014,
            palette["rubber"],
        ),
        capsule(np.array([-0.16, 0.06, 1.3]), np.array([-0.16, 0.35, 1.3]), 0.025, metal),
        capsule(np.array([-0.16, 0.35, 0.03]), np.array([-0.16, 0.35, 1.35]), 0.03, metal),
        box((-0.16, 0.35, 0.02), (0.7, 0.5, 0.04), palette["rubber"]),
        box((0.0, 1.15, 0.84), (1.8, 0.5, 0.05), palette["tabletop"]),
        box((0.0, 1.2, 0.42), (1.7, 0.4, 0.8), palette["shelf"]),
        box((-0.5, 1.15, 0.95), (0.4, 0.25, 0.18), palette["red"]),
        box((0.4, 1.1, 0.90), (0.3, 0.2, 0.08), palette["dice"], per_metre=6.0),
    ]
    return bodies, [(0, -0.58, 0, 0.45, 0.5), (-0.16, 0.35, 0, 0.6, 0.4), (0, 0, 0, 0.7, 0.2)]


def _court(palette: Palette) -> tuple[list[Bodies], list[Shade]]:
    """A court with painted lines, a hoop on a post and a bench."""
    white, red = palette["white"], palette["red"]
    bodies = [
        box((0, 0.9, 0.001), (4.9, 0.06, 0.004), white),
        box((-2.4, 2.0, 0.001), (0.06, 3.6, 0.004), white),
        box((2.4, 2.0, 0.001), (0.06, 3.6, 0.004), white),
        box((0, 2.3, 0.001), (1.9, 2.8, 0.003), palette["blue"]),
        box((0, -2.2, 0.001), (8.0, 0.06, 0.004), white),
        capsule(np.array([0, 3.7, 0]), np.array([0, 3.7, 2.9]), 0.06, palette["metal"]),
        box((0, 3.45, 2.75), (1.5, 0.05, 0.9), white),
        box((0, 3.42, 2.65), (0.5, 0.05, 0.36), red),
        box((0, 3.415, 2.65), (0.42, 0.05, 0.28), white),
        box((-3.6, -0.5, 0.42), (0.4, 1.8, 0.06), palette["tabletop"]),
        box((-3.6, -0.5, 0.2), (0.3, 1.5, 0.4), palette["shelf"]),
        ball(np.array([-2.9, 1.3, 0.12]), 0.12, palette["ball"], per_metre=6.0),
    ]
    angle = 2 * np.pi * np.arange(13) / 12
    rim = np.array([0, 3.17, 2.45]) + 0.23 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    bodies += [capsule(rim[i], rim[i + 1], 0.014, red) for i in range(12)]
    return bodies, [
        (-0.24, -0.42, 0, 0.3, 0.5),
        (0.24, -0.42, 0, 0.3, 0.5),
        (0, -0.3, 0, 0.8, 0.25),
    ]


def _mat(palette: Palette) -> tuple[list[Bodies], list[Shade]]:
    """A training dummy on a mat, and a first-aid case beside it."""
    skin = palette["dummy"]
    bodies = [
        box((0.1, 0.15, 0.02), (2.1, 1.0, 0.04), palette["mat"]),
        capsule(np.array([0.10, 0.08, 0.13]), np.array([0.36, 0.09, 0.12]), 0.09, palette["vest"]),
        capsule(np.array([0.10, 0.21, 0.13]), np.array([0.36, 0.20, 0.12]), 0.09, palette["vest"]),
        capsule(np.array([-0.16, 0.14, 0.13]), np.array([-0.34, 0.14, 0.14]), 0.05, skin),
        ball(np.array([-0.40, 0.14, 0.15]), 0.105, skin),
        ball(np.array([-0.40, 0.14, 0.26]), 0.016, skin),
        capsule(
            np.array([-0.47, 0.14, 0.13]), np.array([-0.44, 0.14, 0.15]), 0.103, palette["hair"]
        ),
        ball(np.array([-0.415, 0.105, 0.248]), 0.012, palette["rubber"]),
        ball(np.array([-0.415, 0.175, 0.248]), 0.012, palette["rubber"]),
        box((-0.35, 0.78, 0.14), (0.36, 0.14, 0.24), palette["red"], yaw=0.4),
        box((-0.36, 0.705, 0.14), (0.12, 0.03, 0.04), palette["white"], yaw=0.4),
        box((-0.36, 0.704, 0.14), (0.04, 0.03, 0.12), palette["white"], yaw=0.4),
        box((0.55, 0.80, 0.07), (0.26, 0.20, 0.06), palette["dice"], per_metre=7.0),
    ]
    for y in (-0.07, 0.35):
        shoulder = np.array([-0.12, 0.14 + (y - 0.14) * 0.75, 0.13])
        bodies.append(capsule(shoulder, np.array([0.42, y, 0.09]), 0.042, skin))
    for y in (0.06, 0.23):
        bodies.append(
            capsule(
                np.array([0.40, y, 0.12]), np.array([1.02, y, 0.10]), 0.068, palette["trousers"]
            )
        )
        bodies.append(
            capsule(np.array([1.05, y, 0.10]), np.array([1.07, y, 0.20]), 0.045, palette["shoes"])
        )
    return bodies, [
        (0.05, 0.14, 0.04, 0.42, 0.45),
        (-0.4, 0.14, 0.04, 0.2, 0.5),
        (0.7, 0.14, 0.04, 0.4, 0.35),
        (0, -0.5, 0, 0.55, 0.45),
    ]
