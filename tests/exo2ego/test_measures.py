"""View bias, sharpness and intervals: their ends, their middle, and what is known of them."""

import math
import statistics

import pytest
import torch

from exo2ego.evaluation.bootstrap import mean_interval
from exo2ego.evaluation.measures import MEASURES
from exo2ego.evaluation.scores import Score
from exo2ego.evaluation.sharpness import ROUNDING_ENERGY, gradient_energy, sharpness_log2
from exo2ego.evaluation.view_bias import pixel_distance, view_bias


def random_frames(seed: int, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 24, 32, 3), generator=generator).to(torch.uint8)


def blend(a: torch.Tensor, b: torch.Tensor, share: float) -> torch.Tensor:
    return ((1 - share) * a.double() + share * b.double()).round().to(torch.uint8)


def test_bias_is_one_for_a_copy_of_a_view_minus_one_for_the_truth_zero_between():
    (truth, *_), exos = random_frames(0), random_frames(1, n=3)
    assert view_bias(exos[2], truth, exos, pixel_distance) == 1
    assert view_bias(truth, truth, exos, pixel_distance) == -1
    middle = blend(truth, exos[1], 0.5)
    assert view_bias(middle, truth, exos, pixel_distance) == pytest.approx(0, abs=0.01)


def test_bias_grows_on_the_way_from_the_truth_to_a_view_by_the_share_of_the_way():
    (truth, exo) = random_frames(0)
    for share in (0.1, 0.3, 0.8):
        frame = blend(truth, exo, share)
        found = view_bias(frame, truth, exo[None], pixel_distance)
        assert found == pytest.approx(2 * share - 1, abs=0.02)


def test_the_nearest_view_counts():
    (truth, *_), exos = random_frames(0), random_frames(1, n=3)
    near = blend(truth, exos[2], 0.9)
    of_all = view_bias(near, truth, exos, pixel_distance)
    of_nearest = view_bias(near, truth, exos[2:], pixel_distance)
    assert of_all == of_nearest
    assert of_all > view_bias(near, truth, exos[:2], pixel_distance)


def test_where_truth_and_view_are_the_same_and_met_there_is_no_bias():
    (truth, *_) = random_frames(0)
    assert view_bias(truth, truth, truth[None], pixel_distance) is None


def test_pixel_distance_of_black_and_white_is_one():
    black, white = torch.zeros(1, 4, 5, 3).byte(), torch.full((1, 4, 5, 3), 255).byte()
    assert pixel_distance(black, white).tolist() == [1.0]


def test_gradient_energy_of_stripes_is_known():
    stripes = torch.zeros(1, 6, 8, 3).byte()
    stripes[:, :, ::2] = 10  # steps of 10 across, none down
    assert gradient_energy(stripes).item() == pytest.approx(100)
    expected = math.log2((100 + ROUNDING_ENERGY) / ROUNDING_ENERGY)
    assert sharpness_log2(stripes, 0 * stripes).item() == pytest.approx(expected)


def test_blur_is_below_zero_noise_above_and_the_frame_itself_at_zero():
    smooth = random_frames(3).float()
    for _ in range(3):
        smooth = (smooth + smooth.roll(1, 1) + smooth.roll(1, 2)) / 3
    truth = smooth.round().to(torch.uint8)
    blurred = ((smooth + smooth.roll(1, 1) + smooth.roll(1, 2)) / 3).round().to(torch.uint8)
    noisy = (
        (smooth + 20 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(4)))
        .clamp(0, 255)
        .to(torch.uint8)
    )
    assert sharpness_log2(truth, truth).tolist() == [0, 0]
    assert (sharpness_log2(blurred, truth) < -0.1).all()
    assert (sharpness_log2(noisy, truth) > 0.1).all()
    flat = torch.full_like(truth, 9)
    assert sharpness_log2(flat, truth).isfinite().all()
    assert sharpness_log2(flat, flat).tolist() == [0, 0]


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says():
    """95 % of 300 samples of 25 takes; a percentile bootstrap of few takes is a little short."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(300):
        low, high = mean_interval(torch.randn(25, generator=generator).tolist(), "x") or (0, 0)
        held += low <= 0 <= high
    assert 0.90 <= held / 300 <= 0.97


def test_an_interval_is_near_that_of_the_normal_distribution_for_many_takes():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)).tolist()
    low, high = mean_interval(values, "y") or (0, 0)
    half = 1.96 * statistics.stdev(values) / 20
    assert low == pytest.approx(statistics.mean(values) - half, abs=0.01)
    assert high == pytest.approx(statistics.mean(values) + half, abs=0.01)


def test_an_interval_is_seeded_needs_two_takes_and_takes_infinity():
    values = [1.0, 2.0, 4.0, 7.0]
    assert mean_interval(values, "a") == mean_interval(values, "a")
    assert mean_interval([3.0], "a") is None
    low, high = mean_interval([1.0, math.inf, 2.0, 1.5], "a") or (0, 0)
    assert (low < math.inf, high) == (True, math.inf)


def test_every_measure_has_its_place_in_a_score():
    assert set(Score.model_fields) == set(MEASURES)
