"""The picture of a run: numbers lie where their axes say, and the run is the same with it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exo2ego.training.chart import (
    BLUE,
    ORANGE,
    PINK,
    Line,
    Panel,
    Scale,
    draw_panels,
    scale_of,
    thinned,
)
from exo2ego.training.held_out import HeldOutLoss, append_held_out
from exo2ego.training.interrupt import StopRequest
from exo2ego.training.losses import StepMetrics, append_metrics, read_metrics
from exo2ego.training.plots import LOSS_PICTURE, LossPicture, draw_run, smoothed
from exo2ego.training.trainer import train
from exo2ego.training.watching import Watcher
from stores.reading import Store


def middle_of(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Where a colour is, on the average: x and y."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(axis=-1))
    assert len(rows), "the colour is not in the picture"
    return float(columns.mean()), float(rows.mean())


def dot(x: float, y: float, colour: tuple[int, int, int]) -> Line:
    return Line("", np.array([x]), np.array([y]), colour, dots=True)


@pytest.mark.parametrize("is_log", [False, True])
def test_a_number_half_way_lies_half_way_between_its_neighbours(is_log: bool):
    low, high = (1.0, 100.0) if is_log else (1.0, 3.0)
    half = (low * high) ** 0.5 if is_log else (low + high) / 2
    points = [dot(10.0, low, BLUE), dot(20.0, half, ORANGE), dot(30.0, high, PINK)]
    picture = draw_panels("", [Panel("", points, 200)], "step")
    first, middle, last = (middle_of(picture, colour) for colour in (BLUE, ORANGE, PINK))
    assert first[0] < middle[0] < last[0]
    assert first[1] > middle[1] > last[1]
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=1.0)


def test_panels_share_their_steps():
    panels = [
        Panel("", [dot(1.0, 0.0, BLUE), dot(9.0, 0.0, ORANGE)], 100),
        Panel("", [dot(9.0, 5.0, PINK)], 100),
    ]
    picture = draw_panels("", panels, "step")
    assert middle_of(picture, PINK)[0] == pytest.approx(middle_of(picture, ORANGE)[0], abs=0.5)
    assert middle_of(picture, PINK)[1] > middle_of(picture, ORANGE)[1]


def test_only_positive_numbers_that_span_more_than_ten_are_drawn_as_logarithms():
    assert scale_of(np.array([0.1, 1.1])).is_log
    assert not scale_of(np.array([0.1, 0.9])).is_log
    assert not scale_of(np.array([0.0, 100.0])).is_log
    assert not scale_of(np.array([])).is_log
    assert not scale_of(np.array([0.1, 1.1]), is_linear=True).is_log
    assert scale_of(np.array([2.0, 2.0])).low < 2 < scale_of(np.array([2.0, 2.0])).high


@pytest.mark.parametrize("scale", [Scale(0.013, 0.97), Scale(-3.0, 1e6), Scale(0.98, 0.99)])
def test_ticks_are_round_within_and_few(scale: Scale):
    ticks = scale.ticks(6)
    assert 2 <= len(ticks) <= 7
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    each = ticks[1] - ticks[0]
    assert float(f"{each:.0e}") == pytest.approx(each)
    assert f"{each:.0e}"[0] in "125"


def test_ticks_of_logarithms_are_round_within_and_few():
    assert Scale(0.04, 3.0, is_log=True).ticks(6) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2])
    assert Scale(1e-9, 10.0, is_log=True).ticks(4) == pytest.approx([1e-9, 1e-6, 1e-3, 1])


def test_thinning_keeps_the_extremes_of_each_column_in_their_order():
    points = np.array([[1.0, 5], [1.1, 9], [1.2, 2], [1.3, 4], [2.5, 7], [3.0, 1], [3.9, 8]])
    kept = [[1.1, 9.0], [1.2, 2.0], [2.5, 7.0], [3.0, 1.0], [3.9, 8.0]]
    assert thinned(points).tolist() == kept


@pytest.mark.parametrize("window", [1, 2, 5, 40])
def test_smoothing_is_the_mean_of_what_lies_around(window: int):
    values = np.random.default_rng(0).random(23)
    for place, mean in enumerate(smoothed(values, window)):
        first = max(0, place - (window - 1) // 2)
        assert mean == pytest.approx(values[first : place + window // 2 + 1].mean())


def test_a_run_of_nothing_but_skipped_steps_is_drawn(tmp_path: Path):
    append_metrics(tmp_path, StepMetrics(1, None, 1e-4, None, 8.0))
    append_held_out(tmp_path, HeldOutLoss(1, None, {"0.5": None}, 1, 0.0))
    with Image.open(draw_run(tmp_path, "align")) as picture:
        assert picture.size[0] == 1200


class Pictures(Watcher):
    """Keeps the picture of each checkpoint."""

    def __init__(self):
        self.seen: list[bytes] = []

    def saved(self, checkpoint: Path, step: int, stop: StopRequest) -> None:
        self.seen.append((checkpoint.parents[1] / LOSS_PICTURE).read_bytes())


def test_a_run_is_drawn_at_each_checkpoint_and_the_same_as_one_that_is_not(
    store: Store, align_run: Path, tiny_experiment: Callable, tmp_path: Path
):
    pictures = Pictures()
    watchers = [LossPicture("align"), pictures]
    train("align", store, tmp_path, tiny_experiment("align"), watchers=watchers)
    assert len(pictures.seen) == len(set(pictures.seen)) == 2
    both = read_metrics(tmp_path), read_metrics(align_run)
    assert len({tuple((line.loss, line.grad_norm) for line in of) for of in both}) == 1
