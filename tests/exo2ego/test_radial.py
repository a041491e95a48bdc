"""The angle polynomial: where it stops growing, its inverse up to there; our sine and cosine."""

import math

import pytest
import torch
from torch.testing import assert_close

from exo2ego.geometry.radial import angle_limit, angle_of_radius, radius_of_angle, sine_cosine


def test_sine_and_cosine_are_the_librarys():
    angles = torch.linspace(-math.pi, math.pi, 1001, dtype=torch.float64)
    sine, cosine = sine_cosine(angles)
    assert_close(sine, angles.sin(), rtol=0, atol=1e-14)
    assert_close(cosine, angles.cos(), rtol=0, atol=1e-14)


def test_a_polynomial_that_always_grows_has_the_limit_it_is_given():
    assert angle_limit([0.1, 0.02], math.pi) == math.pi


@pytest.mark.parametrize("bend", [[-0.2], [0.4, -0.45], [0.0, 0.0, -0.01]])
def test_the_limit_is_where_the_radius_is_largest(bend: list[float]):
    limit = angle_limit(bend, math.pi)
    near = radius_of_angle(bend, torch.tensor([0.99, 1.0, 1.01], dtype=torch.float64) * limit)
    assert near[1] > near[0] and near[1] > near[2]


@pytest.mark.parametrize("bend", [[0.0], [-0.2], [0.4, -0.45], [0.037, 0.057, -0.057, 0.018]])
def test_the_angle_of_an_angles_radius_is_the_angle(bend: list[float]):
    limit = angle_limit(bend, math.pi)
    angles = torch.linspace(0, 0.999 * limit, 301, dtype=torch.float64)
    back = angle_of_radius(bend, radius_of_angle(bend, angles), limit)
    assert_close(back, angles, rtol=0, atol=1e-11)


def test_a_radius_beyond_the_limits_has_the_limits_angle():
    limit = angle_limit([-0.2], math.pi)
    angle = angle_of_radius([-0.2], torch.tensor([5.0], dtype=torch.float64), limit)
    assert angle.item() == pytest.approx(limit, abs=1e-5)
