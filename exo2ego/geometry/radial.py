"""Radius in the image as an odd polynomial of the angle from the axis: value, limit and inverse."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

NEWTON_STEPS = 20
"""Enough for float64 anywhere below the limit, where the slope may fall to zero."""
_LIMIT_STEPS = 4096
_SINE = [(-1.0) ** n / math.factorial(2 * n + 1) for n in range(9)]
_COSINE = [(-1.0) ** n / math.factorial(2 * n) for n in range(9)]


def radius_of_angle(
    coefficients: Sequence[float], angle: Float[Tensor, "*n"]
) -> Float[Tensor, "*n"]:
    """angle (1 + k0 angle² + k1 angle⁴ + ...): image radius in focal lengths."""
    return angle * _horner([1.0, *coefficients], angle * angle)


def angle_limit(coefficients: Sequence[float], largest: float) -> float:
    """The angle up to which the radius grows, at most `largest`.

    Beyond it an image point would stand for two angles. Plain float arithmetic and no library's
    root finder, so that it is the same number on every machine.
    """
    step = largest / _LIMIT_STEPS
    angles = torch.arange(1, _LIMIT_STEPS + 1, dtype=torch.float64) * step
    value = torch.zeros_like(angles)
    for slope in reversed(_slope_coefficients(coefficients)):
        value = value * angles * angles + slope  # the operations of _slope_at, all at once
    falling = torch.nonzero(value <= 0)
    if not len(falling):
        return largest
    count = int(falling[0]) + 1
    return _bisect_slope(coefficients, (count - 1) * step, count * step)


def angle_of_radius(
    coefficients: Sequence[float], radius: Float[Tensor, "*n"], limit: float
) -> Float[Tensor, "*n"]:
    """The angle in [0, limit] of a radius, `limit` where the radius is larger than the limit's.

    Newton steps inside a bracket that each step narrows; one that would leave it halves it.
    """
    slopes = _slope_coefficients(coefficients)
    low, high = torch.zeros_like(radius), torch.full_like(radius, limit)
    angle = radius.clamp(0, limit)
    for _ in range(NEWTON_STEPS):
        excess = radius_of_angle(coefficients, angle) - radius
        low = torch.where(excess < 0, angle, low)
        high = torch.where(excess < 0, high, angle)
        step = angle - excess / _horner(slopes, angle * angle)
        angle = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    return angle


def sine_cosine(
    angle: Float[Tensor, "*n"],
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Sine and cosine of angles in [-π, π] within 1e-14, from products and sums alone.

    Libraries' sines differ in their last bits between machines; these are the same everywhere,
    and so are the digests of rays that a store makes at read time.
    """
    quarter = angle / 4
    square = quarter * quarter
    sine, cosine = quarter * _horner(_SINE, square), _horner(_COSINE, square)
    for _ in range(2):
        sine, cosine = 2 * sine * cosine, 1 - 2 * sine * sine
    return sine, cosine


def _horner(coefficients: Sequence[float], x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def _slope_coefficients(coefficients: Sequence[float]) -> list[float]:
    return [(2 * n + 1) * k for n, k in enumerate([1.0, *coefficients])]


def _slope_at(coefficients: Sequence[float], angle: float) -> float:
    value = 0.0
    for slope in reversed(_slope_coefficients(coefficients)):
        value = value * angle * angle + slope
    return value


def _bisect_slope(coefficients: Sequence[float], rising: float, falling: float) -> float:
    for _ in range(60):
        middle = (rising + falling) / 2
        if _slope_at(coefficients, middle) > 0:
            rising = middle
        else:
            falling = middle
    return rising
