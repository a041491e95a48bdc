"""Charts of numbers over steps, drawn with Pillow: panels one above the other on one x axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Numbers = Float[np.ndarray, " n"]

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
)
"""Told apart by all eyes (Okabe and Ito)."""
PALE_BLUE = (176, 209, 230)
_INK, _GRID, _PAPER = (30, 30, 30), (226, 226, 226), (255, 255, 255)
_WIDTH = 1200
_LEFT, _RIGHT, _TOP, _BETWEEN, _BOTTOM = 92.0, 28.0, 56.0, 40.0, 62.0
_SHARP = 2  # drawn so many times larger, then shrunk: lines without steps
_LOG_FROM = 10.0
"""Numbers that span more than this are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Line:
    """Numbers over steps; the earlier of two lines lies below."""

    name: str
    x: Numbers
    y: Numbers
    colour: Colour
    width: float = 1.5
    dots: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines over one y axis."""

    title: str
    lines: Sequence[Line]
    height: int
    marks: Sequence[int] = ()
    """Steps that are marked at the panel's foot."""
    marks_name: str = ""
    is_linear: bool = False
    """Whatever its numbers span."""


@dataclass(frozen=True)
class Scale:
    """Numbers to the span from 0 to 1, even in the numbers or in their logarithms."""

    low: float
    high: float
    is_log: bool = False

    def __call__(self, values: Numbers) -> Numbers:
        """0 for `low`, 1 for `high`."""
        low, high, values = (
            (math.log(self.low), math.log(self.high), np.log(values))
            if self.is_log
            else (self.low, self.high, values)
        )
        return (values - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """At most so many round numbers within the scale, or two of a short logarithmic one."""
        return _log_ticks(self.low, self.high, most) if self.is_log else _ticks(self, most)


def scale_of(values: Numbers, *, is_linear: bool = False) -> Scale:
    """The scale that shows all of these.

    Logarithmic if they are positive and the largest is over 10 times the smallest, unless told.
    """
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if low > 0 and high / low > _LOG_FROM and not is_linear:
        return Scale(low / 1.1, high * 1.1, is_log=True)
    air = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - air, high + air)


def draw_panels(title: str, panels: Sequence[Panel], x_name: str) -> Image.Image:
    """A picture of all panels over one x axis, whose numbers are steps."""
    steps = np.concatenate([line.x for panel in panels for line in panel.lines])
    first, last = (float(steps.min()), float(steps.max())) if len(steps) else (0.0, 1.0)
    x_scale = Scale(first, last if last > first else first + 1)
    height = _TOP + sum(panel.height + _BETWEEN for panel in panels) - _BETWEEN + _BOTTOM
    paper = _Paper(round(height))
    paper.text((_LEFT, 14.0), title, size=18)
    top = _TOP
    for panel in panels:
        _Axes(paper, top, panel, x_scale).draw(named=panel is panels[-1], x_name=x_name)
        top += panel.height + _BETWEEN
    return paper.shrunk()


class _Paper:
    """A larger picture to draw on, in the pixels of the smaller one that becomes of it."""

    def __init__(self, height: int):
        self._height = height
        self._image = Image.new("RGB", (_SHARP * _WIDTH, _SHARP * height), _PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Float[np.ndarray, "n 2"], colour: Colour, width: float = 1.0) -> None:
        at = [(float(x), float(y)) for x, y in _SHARP * points]
        if len(at) > 1:
            self._draw.line(at, fill=colour, width=round(_SHARP * width), joint="curve")

    def dot(self, x: float, y: float, colour: Colour, radius: float = 3.0) -> None:
        self._draw.circle((_SHARP * x, _SHARP * y), _SHARP * radius, fill=colour)

    def text(
        self, at: tuple[float, float], words: str, *, size: int = 14, anchor: str = "la"
    ) -> float:
        """Writes words, and says how wide they are."""
        font = ImageFont.load_default(size=_SHARP * size)
        self._draw.text(
            (_SHARP * at[0], _SHARP * at[1]), words, fill=_INK, font=font, anchor=anchor
        )
        return self._draw.textlength(words, font=font) / _SHARP

    def shrunk(self) -> Image.Image:
        return self._image.resize((_WIDTH, self._height), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class _Axes:
    """One panel's place on the paper."""

    paper: _Paper
    top: float
    panel: Panel
    x_scale: Scale

    def draw(self, *, named: bool, x_name: str) -> None:
        values = np.concatenate([line.y for line in self.panel.lines])
        y_scale = scale_of(values, is_linear=self.panel.is_linear)
        self._grid(y_scale, named=named, x_name=x_name)
        for line in self.panel.lines:
            at = np.stack([self._x(line.x), self._y(y_scale, line.y)], axis=1)
            self.paper.line(thinned(at), line.colour, line.width)
            for x, y in at if line.dots or len(at) == 1 else ():
                self.paper.dot(float(x), float(y), line.colour)
        for x in self._x(np.array(self.panel.marks, dtype=float)):
            self.paper.line(np.array([[x, self._foot - 10], [x, self._foot]]), ORANGE, 2.0)
        self._names(y_scale)

    @property
    def _foot(self) -> float:
        return self.top + self.panel.height

    def _x(self, steps: Numbers) -> Numbers:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * self.x_scale(steps)

    def _y(self, scale: Scale, values: Numbers) -> Numbers:
        return self._foot - self.panel.height * scale(values)

    def _grid(self, scale: Scale, *, named: bool, x_name: str) -> None:
        left, right = _LEFT, _WIDTH - _RIGHT
        for value in scale.ticks(max(3, self.panel.height // 50)):
            y = float(self._y(scale, np.array([value]))[0])
            self.paper.line(np.array([[left, y], [right, y]]), _GRID)
            self.paper.text((left - 8, y), _word(value), anchor="rm")
        for step in self.x_scale.ticks(8):
            x = float(self._x(np.array([step]))[0])
            self.paper.line(np.array([[x, self.top], [x, self._foot]]), _GRID)
            if named:
                self.paper.text((x, self._foot + 8), f"{step:,.0f}", anchor="ma")
        frame = [[left, self.top], [left, self._foot], [right, self._foot]]
        self.paper.line(np.array(frame, dtype=float), _INK)
        if named:
            self.paper.text(((left + right) / 2, self._foot + 32), x_name, anchor="ma")

    def _names(self, scale: Scale) -> None:
        """The title over the panel, and beside it what each colour is."""
        title = self.panel.title + " (logarithmic)" * scale.is_log
        y = self.top - 20
        x = _LEFT + self.paper.text((_LEFT, y), title, size=15) + 24
        keys = [(line.name, line.colour) for line in self.panel.lines if line.name]
        keys += [(self.panel.marks_name, ORANGE)] * bool(len(self.panel.marks))
        for name, colour in keys:
            self.paper.line(np.array([[x, y + 9], [x + 18, y + 9]]), colour, 3.0)
            x += 24 + self.paper.text((x + 24, y + 1), name) + 20


def thinned(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    """The points with at most the lowest and the highest of each pixel's column, in their order."""
    if not len(points):
        return points
    columns = np.floor(points[:, 0]).astype(int)
    kept: list[int] = []
    for column in np.split(np.arange(len(points)), np.flatnonzero(np.diff(columns)) + 1):
        heights = points[column, 1]
        kept += sorted({int(column[heights.argmin()]), int(column[heights.argmax()])})
    return points[kept]


def _word(value: float) -> str:
    return f"{value:.0e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"


def _ticks(scale: Scale, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    each = (scale.high - scale.low) / most
    power = 10.0 ** math.floor(math.log10(each))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= each)
    first = math.ceil(scale.low / step)
    count = math.floor(scale.high / step) - first + 1
    return [(first + k) * step for k in range(count)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """1, 2 and 5 times powers of ten if there is room for them, else powers alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for times in ((1, 2, 5), (1, 3), (1,)):
        found = [k * 10.0**power for power in powers for k in times]
        within = [value for value in found if low <= value <= high]
        if len(within) <= most:
            return within
    return within[:: math.ceil(len(within) / most)]
