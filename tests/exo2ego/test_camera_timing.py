"""Flow and timing: known shifts, zooms and turns are found, and so is a lag that was put in."""

import math

import pytest
import torch
from torch.nn import functional

from exo2ego.evaluation.camera_timing import camera_timing, motion
from exo2ego.evaluation.optical_flow import optical_flow

HW = (64, 80)


def texture(side: int = 400, seed: int = 0) -> torch.Tensor:
    """Smooth random brightness "side side" of several scales, in levels."""
    generator, total = torch.Generator().manual_seed(seed), torch.zeros(1, 1, side, side)
    for scale in (6, 12, 25, 50):
        noise = torch.randn(1, 1, scale * 2, scale * 2, generator=generator)
        total += functional.interpolate(noise, size=(side, side), mode="bicubic") / math.sqrt(scale)
    total = total[0, 0]
    return ((total - total.min()) / (total.max() - total.min()) * 255).clamp(0, 255)


def view(image: torch.Tensor, centre_xy: tuple[float, float], turn: float = 0, zoom: float = 1):
    """What a camera over the texture sees: "H W" around a centre, turned (radians), enlarged."""
    y, x = torch.meshgrid(torch.arange(HW[0]) + 0.5, torch.arange(HW[1]) + 0.5, indexing="ij")
    x, y = (x - HW[1] / 2) / zoom, (y - HW[0] / 2) / zoom
    cos, sin, side = math.cos(turn), math.sin(turn), image.shape[0]
    there = torch.stack([cos * x - sin * y + centre_xy[0], sin * x + cos * y + centre_xy[1]], -1)
    grid = (2 * there / side - 1)[None]
    return functional.grid_sample(image[None, None], grid, align_corners=False)[0, 0]


def as_video(frames: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(frames).round().to(torch.uint8)[..., None].repeat(1, 1, 1, 3)


def path_video(velocities: list[tuple[float, float]], seed: int = 0) -> torch.Tensor:
    """A video of a camera with these steps in pixels."""
    x, y, image, frames = 200.0, 200.0, texture(seed=seed), []
    for dx, dy in [(0.0, 0.0), *velocities]:
        x, y = x + dx, y + dy
        frames.append(view(image, (x, y)))
    return as_video(frames)


def wandering(steps: int, seed: int, size: float = 3.0) -> list[tuple[float, float]]:
    """Random steps that change their course from one to the next."""
    drawn = torch.randn(steps, 2, generator=torch.Generator().manual_seed(seed)) * size
    return [(float(x), float(y)) for x, y in drawn]


@pytest.mark.parametrize("shift", [(0.4, -0.7), (3.0, 2.0), (-9.5, 4.25), (0.0, 0.0)])
def test_a_shift_is_found_to_a_tenth_of_a_pixel(shift: tuple[float, float]):
    image = texture()
    before, after = view(image, (200, 200)), view(image, (200 - shift[0], 200 - shift[1]))
    flow = optical_flow(before[None], after[None])[0]
    inside = flow[:, 12:-12, 12:-12]
    expected = torch.tensor(shift)[:, None, None]
    assert (inside - expected).abs().mean() < 0.1


def test_a_turn_and_a_zoom_are_found_everywhere():
    image = texture()
    before, after = view(image, (200, 200)), view(image, (200, 200), turn=0.03, zoom=1.04)
    flow = optical_flow(before[None], after[None])[0]
    y, x = torch.meshgrid(torch.arange(HW[0]) + 0.5, torch.arange(HW[1]) + 0.5, indexing="ij")
    x, y = x - HW[1] / 2, y - HW[0] / 2
    cos, sin = math.cos(-0.03) * 1.04, math.sin(-0.03) * 1.04
    expected = torch.stack([cos * x - sin * y - x, sin * x + cos * y - y])
    assert (flow - expected)[:, 10:-10, 10:-10].abs().mean() < 0.15


@pytest.mark.parametrize("lag", [-3, -2, -1, 0, 1, 2, 3])
def test_a_video_that_was_shifted_by_some_frames_has_that_lag(lag: int):
    steps = wandering(14, seed=3)
    video = path_video(steps)
    truth, late = video[3:12], video[3 - lag : 12 - lag]
    timing = camera_timing(late, truth)
    assert timing.lag_frames == lag
    assert timing.agreement is not None and timing.agreement > 0.9


def test_the_lag_is_found_in_other_pixels_that_move_alike():
    steps = wandering(14, seed=5)
    truth, other = path_video(steps, seed=0)[3:12], path_video(steps, seed=1)[1:10]
    assert camera_timing(other, truth).lag_frames == 2


@pytest.mark.parametrize("lag", [-1, 0, 1])
def test_many_videos_that_agree_too_little_tell_on_the_mean_whether_they_are_late(lag: int):
    """Each moves half as the truth did `lag` frames ago, half as it likes."""
    found = []
    for seed in range(24):
        true, own = wandering(12, seed), wandering(12, 100 + seed)
        pairs = zip(true[2 - lag :], own[2:], strict=False)
        mixed = [((a + 1.2 * c) / 2, (b + 1.2 * d) / 2) for (a, b), (c, d) in pairs][:8]
        made, truth = path_video(mixed, seed=1), path_video(true[2:10])
        found.append(camera_timing(made, truth))
    lateness = torch.tensor([one.lateness for one in found])
    error = float(lateness.std()) / len(found) ** 0.5
    untold = sum(one.lag_frames is None for one in found)
    assert untold > len(found) / 3  # of many no lag can be told
    if lag:
        assert float(lateness.mean()) * lag > 4 * error
    else:
        assert abs(float(lateness.mean())) < 2.5 * error
        assert sum(one.on_time or 0 for one in found) / len(found) > 0.4


def test_videos_that_do_not_move_alike_have_no_lag_but_an_agreement():
    truth, other = (path_video(wandering(8, seed=s), seed=s) for s in (1, 8))
    timing = camera_timing(other, truth)
    assert timing.lag_frames is None
    assert timing.agreement is not None and timing.agreement < 0.5


@pytest.mark.parametrize("velocity", [(0.0, 0.0), (2.0, -1.0)])
def test_a_camera_that_stands_or_pans_evenly_cannot_be_timed(velocity: tuple[float, float]):
    video = path_video([velocity] * 8)
    timing = camera_timing(video, video)
    assert (timing.lag_frames, timing.agreement) == (None, None)
    assert (timing.on_time, timing.lateness) == (None, None)


def test_a_still_video_does_not_move_like_the_truth():
    truth = path_video(wandering(8, seed=2))
    timing = camera_timing(truth[:1].repeat(9, 1, 1, 1), truth)
    assert timing.lag_frames is None
    assert timing.agreement == pytest.approx(0.0, abs=1e-6)


def test_motion_is_minus_the_cameras_step_in_every_cell():
    steps = [(2.0, -1.0), (0.5, 3.0)]
    cells = motion(path_video(steps)).reshape(2, 2, 4, 4)
    for number, (dx, dy) in enumerate(steps):
        assert (cells[number, 0] + dx).abs().mean() < 0.25
        assert (cells[number, 1] + dy).abs().mean() < 0.25
