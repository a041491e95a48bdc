"""Textures: square, seamless pictures made by small procedures; nothing is loaded from disk."""

from collections.abc import Callable

import numpy as np
from einops import repeat
from jaxtyping import Float64, UInt8

TEXELS = 256
"""Side of every texture."""

Rgb = tuple[float, float, float]
Picture = Float64[np.ndarray, "256 256 3"]
Field = Float64[np.ndarray, "256 256"]


def cloud(rng: np.random.Generator, cells: int, octaves: int = 3) -> Field:
    """Seamless value noise in [0, 1]: random lattices, each twice as fine and half as strong."""
    total, weight = np.zeros((TEXELS, TEXELS)), 0.0
    for octave in range(octaves):
        count = cells * 2**octave
        lattice = rng.random((count, count))
        at = np.arange(TEXELS) * count / TEXELS
        low, part = at.astype(np.int64) % count, at % 1.0
        part, high = part * part * (3 - 2 * part), (low + 1) % count
        rows = lattice[low] * (1 - part[:, None]) + lattice[high] * part[:, None]
        total += (rows[:, low] * (1 - part) + rows[:, high] * part) / 2**octave
        weight += 1 / 2**octave
    return total / weight


def tinted(field: Field, low: Rgb, high: Rgb) -> Picture:
    """A field as colours from `low` to `high`."""
    return np.array(low) + repeat(field, "h w -> h w 3") * (np.array(high) - np.array(low))


def grid() -> tuple[Field, Field]:
    """Row and column of every texel, in [0, 1)."""
    row, column = np.meshgrid(np.arange(TEXELS), np.arange(TEXELS), indexing="ij")
    return row / TEXELS, column / TEXELS


def plain(rng: np.random.Generator, colour: Rgb, strength: float = 0.12) -> Picture:
    """One colour with faint patches: paint, plastic, skin."""
    return np.array(colour) * (1 - strength * repeat(cloud(rng, 8), "h w -> h w 3"))


def wood(rng: np.random.Generator, light: Rgb, dark: Rgb, boards: int = 4) -> Picture:
    """Boards along the rows, each with its own shade and grain."""
    row, _ = grid()
    board = np.floor(row * boards).astype(np.int64)
    grain = np.abs((row * 24 + 5 * cloud(rng, 2) + 0.37 * board) % 1.0 - 0.5) * 2
    shade = rng.random(boards)[board]
    picture = tinted(np.clip(0.55 * grain + 0.45 * shade, 0, 1), dark, light)
    picture[(row * boards) % 1.0 < 0.025 * boards / 4] *= 0.55
    return picture


def brick(rng: np.random.Generator, colour: Rgb, mortar: Rgb, courses: int = 8) -> Picture:
    """Courses of bricks, every other one shifted by half a brick."""
    row, column = grid()
    course = np.floor(row * courses).astype(np.int64)
    across = column * courses / 2 + 0.5 * (course % 2)
    shade = rng.random((courses, courses))[course, np.floor(across).astype(np.int64) % courses]
    picture = np.array(colour) * repeat(0.7 + 0.3 * shade, "h w -> h w 3")
    joint = ((row * courses) % 1.0 < 0.1) | (across % 1.0 < 0.05)
    picture[joint] = mortar
    return picture * (1 - 0.15 * repeat(cloud(rng, 16), "h w -> h w 3"))


def checker(rng: np.random.Generator, first: Rgb, second: Rgb, squares: int = 2) -> Picture:
    """Squares of two colours."""
    row, column = grid()
    odd = (np.floor(row * squares) + np.floor(column * squares)) % 2
    return tinted(odd, first, second) * (1 - 0.1 * repeat(cloud(rng, 8), "h w -> h w 3"))


def stripes(rng: np.random.Generator, first: Rgb, second: Rgb, count: int = 6) -> Picture:
    """Bands of two colours along the columns."""
    _, column = grid()
    band = (np.floor(column * 2 * count) % 2).astype(np.float64)
    return tinted(band, first, second) * (1 - 0.08 * repeat(cloud(rng, 8), "h w -> h w 3"))


def poster(rng: np.random.Generator, ground: Rgb, ink: Rgb, spot: Rgb) -> Picture:
    """A sheet with a frame, a disc, a wedge and lines of would-be writing."""
    row, column = grid()
    picture = np.ones((TEXELS, TEXELS, 3)) * np.array(ground)
    x, y = 0.3 + 0.4 * rng.random(), 0.28 + 0.12 * rng.random()
    picture[(column - x) ** 2 + (row - y) ** 2 < 0.035 + 0.02 * rng.random()] = spot
    slope = 0.6 + rng.random()
    picture[(row > 0.5) & (row < 0.66) & (np.abs(column - 0.5) < slope * (row - 0.5))] = ink
    for line in range(4):
        top, right = 0.72 + 0.06 * line, 0.55 + 0.35 * rng.random()
        words = (column * 40).astype(np.int64) % (3 + line) != 0
        picture[(row > top) & (row < top + 0.03) & (column > 0.1) & (column < right) & words] = ink
    edge = np.minimum(np.minimum(row, 1 - row), np.minimum(column, 1 - column))
    picture[edge < 0.03] = ink
    return picture


class Palette:
    """Textures of one take, numbered in the order in which they were first asked for by name."""

    def __init__(self, rng: np.random.Generator):
        self._rng, self._numbers, self._pictures = rng, dict[str, int](), list[Picture]()

    def add(
        self, name: str, make: Callable[..., Picture], *colours: Rgb, **settings: float | int
    ) -> int:
        """The texture's number; made only if the name is new."""
        if name not in self._numbers:
            self._numbers[name] = len(self._pictures)
            self._pictures.append(make(self._rng, *colours, **settings))
        return self._numbers[name]

    def __getitem__(self, name: str) -> int:
        return self._numbers[name]

    def texels(self) -> UInt8[np.ndarray, "n 256 256 3"]:
        """All textures, eight bits a channel."""
        return (np.clip(np.stack(self._pictures), 0, 1) * 255).round().astype(np.uint8)
