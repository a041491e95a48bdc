"""The live line: what it says, where it says it, and that a run is the same with it."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from exo2ego.training.held_out import HeldOutLoss
from exo2ego.training.live import LiveLine, duration, step_words
from exo2ego.training.losses import METRICS, StepMetrics, append_metrics, read_metrics
from exo2ego.training.trainer import train
from stores.reading import Store


def line_of(step: int, loss: float | None = 0.5) -> StepMetrics:
    norm = None if loss is None else 2.0
    return StepMetrics(step, loss, 1e-4, norm, clips_per_s=8.0, data_wait_s=0.1, step_s=0.4)


def console_on(text: io.StringIO, *, terminal: bool) -> Console:
    return Console(file=text, force_terminal=terminal, width=160, color_system=None)


@pytest.fixture
def clock() -> Callable[[], float]:
    """A clock that goes ten seconds on each time it is looked at."""
    seconds: Iterator[int] = iter(range(0, 10**6, 10))
    return lambda: float(next(seconds))


def test_words_are_of_the_last_step_and_rates_of_all():
    words = step_words([line_of(1, 0.25), line_of(2, None), line_of(3, 0.5)])
    assert words == [
        "loss 0.5 (mean of 3: 0.375)",
        "lr 1.00e-04",
        "grad norm 2",
        "6.4 clips/s",  # 3 x 3.2 clips in 3 x 0.5 seconds
        "waits for data 20.0%",
    ]
    assert step_words([line_of(1, None)])[0] == "loss none (mean of 1: none)"


def test_away_from_a_terminal_there_is_a_whole_line_now_and_then_and_one_at_the_end(
    tmp_path: Path,
):
    text, now = io.StringIO(), [0.0]
    live = LiveLine(
        "align", every_s=30.0, console=console_on(text, terminal=False), clock=lambda: now[0]
    )
    live.begin(tmp_path, 0, 10)
    for step in range(1, 11):
        now[0] += 9.0
        live.step(line_of(step))
        if step == 5:
            live.held_out(HeldOutLoss(5, 0.75, {}, 3, 1.0))
    live.end()
    lines = text.getvalue().splitlines()
    assert [line.split(" | ")[:2] for line in lines] == [
        ["align 4/10", "left 0:00:54"],
        ["align 8/10", "left 0:00:18"],
        ["align 10/10", "left 0:00:00"],
    ]
    assert "held-out" not in lines[0]
    assert lines[1].endswith("held-out 0.75 at 5")


def test_skipped_steps_of_the_whole_run_are_counted(tmp_path: Path):
    text = io.StringIO()
    append_metrics(tmp_path, line_of(1, None))
    live = LiveLine("align", console=console_on(text, terminal=False))
    live.begin(tmp_path, 1, 3)
    live.step(line_of(2, None))
    live.step(line_of(3))
    assert text.getvalue().strip().endswith("2 skipped")


def test_on_a_terminal_it_is_drawn_and_ends_with_the_last_step(
    tmp_path: Path, clock: Callable[[], float]
):
    text = io.StringIO()
    live = LiveLine("align", console=console_on(text, terminal=True), clock=clock)
    live.begin(tmp_path, 2, 4)
    live.step(line_of(3))
    live.note("Something to know.")
    live.step(line_of(4, 0.125))
    live.end()
    shown = text.getvalue()
    assert "Something to know." in shown
    last = shown[shown.rindex("align") :]
    assert "4/4" in last
    assert "loss 0.125" in last


def test_a_run_is_watched_to_its_end_and_the_same_as_an_unwatched_one(
    store: Store, align_run: Path, tiny_experiment: Callable, tmp_path: Path
):
    text = io.StringIO()
    live = LiveLine("align", every_s=0.0, console=console_on(text, terminal=False))
    train("align", store, tmp_path, tiny_experiment("align"), watchers=[live])
    note, *lines = text.getvalue().splitlines()
    assert note.startswith("The store has no clip of split val")
    assert [line.split(" | ")[0] for line in lines] == [f"align {n}/4" for n in range(1, 5)]
    both = read_metrics(tmp_path), read_metrics(align_run)
    assert len({tuple((line.loss, line.grad_norm) for line in of) for of in both}) == 1


def test_time_that_is_waited_is_noted_and_runs_older_than_that_are_read(
    align_run: Path, tmp_path: Path
):
    for line in read_metrics(align_run):
        assert line.data_wait_s is not None and line.data_wait_s >= 0
        assert line.step_s is not None and line.step_s > 0
    old = b'{"step":1,"loss":0.5,"lr":0.001,"grad_norm":2.0,"clips_per_s":8.0}\n'
    (tmp_path / METRICS).write_bytes(old)
    assert read_metrics(tmp_path) == [StepMetrics(1, 0.5, 0.001, 2.0, 8.0, None, None)]


def test_durations_are_read_at_a_glance():
    assert duration(59.6) == "0:01:00"
    assert duration(3 * 24 * 3600 + 7384.0) == "3 d 2:03:04"
