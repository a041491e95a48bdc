"""Claims about decoding and resampling: pipeline/video.py."""

import math
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from exo2ego.geometry.lenses import (
    Fisheye624,
    Lens,
    Turned,
    fisheye624_2880_to_1408,
    pixel_centres,
    virtual_pinhole,
)
from pipeline.video import Resampler, VideoFault, iterate_frames, probe

ARIA_PARAMS = (
    *(1220.01943882295, 1220.01943882295, 1461.591249679011, 1447.587207987354),
    *(0.411035882200732, -0.456468282322496, 0.038303075146701),
    *(1.298336637403988, -1.770471163632234, 0.654993502244781),
    *(-7.9203062637e-05, 4.4207001233e-05),
    *(-0.000587384169463, 0.00056439365081, 0.000515794638327, 0.000235027249453),
)


def _aria(side: int) -> Lens:
    """A real Aria's lens at the size of an upright video."""
    sensor = Fisheye624(*ARIA_PARAMS, hw=(2880, 2880))
    return Turned(fisheye624_2880_to_1408(sensor), 1).resized((side, side))


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """70 frames of noise with B-frames and one key frame every 24."""
    path = tmp_path / "film.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (70, 40, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 40, 64, "yuv420p"
        stream.options = {"g": "24", "bf": "3"}
        for image in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_the_header_tells_frames_rate_and_size(film: Path) -> None:
    header = probe(film)
    assert (header.frames, header.fps, header.hw) == (70, 30.0, (40, 64))


def test_sampled_frames_are_those_of_a_plain_sequential_decode(film: Path) -> None:
    with av.open(str(film)) as container:
        truth = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    wanted = [0, 3, 4, 5, 23, 24, 25, *range(30, 70, 2), 69]
    found = dict(iterate_frames(film, wanted))
    assert list(found) == wanted
    assert all(np.abs(found[i].astype(int) - truth[i]).max() <= 1 for i in wanted)


def test_decoding_a_damaged_video_says_nothing_but_its_fault(
    film: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = bytearray(film.read_bytes())
    body[len(body) // 2 : len(body) // 2 + 6000] = b"\x55" * 6000
    film.write_bytes(body)
    with pytest.raises(VideoFault, match=r"film\.mp4"):
        list(iterate_frames(film, range(0, 70, 4)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda body: b"", "empty file"),
        (lambda body: body[: len(body) // 2], "of 2?"),
        (lambda body: b"not a video at all, but a page that says 403", "box|FFmpeg"),
        (lambda body: body[:30] + body[31:], "box|FFmpeg|bytes"),
    ],
)
def test_a_cut_or_foreign_file_is_named_before_it_is_decoded(
    film: Path, damage: Callable[[bytes], bytes], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    film.write_bytes(damage(film.read_bytes()))
    with pytest.raises(VideoFault, match=told) as fault:
        probe(film)
    assert fault.value.where == film
    assert capfd.readouterr() == ("", "")


def test_frames_past_the_end_are_refused(film: Path) -> None:
    with pytest.raises(VideoFault, match="70 frames"):
        list(iterate_frames(film, [68, 72]))


def test_frames_are_never_read_backwards(film: Path) -> None:
    with pytest.raises(ValueError, match="front to back"):
        list(iterate_frames(film, [5, 4]))


def test_squash_bits_do_not_depend_on_how_many_frames_come_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (5, 30, 53, 3), generator=generator, dtype=torch.uint8)
    squash = Resampler((30, 53), (16, 24))
    one_by_one = torch.cat([squash(frame[None]) for frame in frames])
    assert torch.equal(squash(frames), one_by_one)
    assert squash(frames).shape == (5, 16, 24, 3)


def test_squash_averages_fine_stripes_away() -> None:
    stripes = torch.zeros(1, 32, 64, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    middle = Resampler((32, 64), (16, 16))(stripes)[:, 2:-2, 2:-2].float()
    assert (middle - 127.5).abs().max() < 6


def test_a_frame_of_the_right_size_passes_unchanged() -> None:
    frames = torch.arange(2 * 16 * 24 * 3).remainder(256).to(torch.uint8).reshape(2, 16, 24, 3)
    assert torch.equal(Resampler((16, 24), (16, 24))(frames), frames)


def _waves(directions: Tensor) -> Tensor:
    """Colours of directions, smooth: three waves about 20 degrees long."""
    phase = torch.stack([directions[..., 0] * 17, directions[..., 1] * 17, directions.sum(-1) * 9])
    return 127.5 + 110 * phase.movedim(0, -1).sin()


def _drawn(lens: Lens, colour_of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """What the lens shows of a world that is coloured by direction, and which pixels show it."""
    directions, seen = lens.unproject(pixel_centres(lens.hw))
    image = torch.where(seen[..., None], colour_of(directions), 0)
    return image.round().clamp(0, 255).to(torch.uint8), seen


@pytest.mark.parametrize("side", [448, 640])
def test_undistorted_frames_show_what_the_pinhole_would_see(side: int) -> None:
    source, target = _aria(side), virtual_pinhole((256, 256), 150 / 512)
    frame, _ = _drawn(source, _waves)
    redrawn = Resampler(source, target)(frame[None])[0]
    truth, _ = _drawn(target, _waves)
    error = (redrawn.double() - truth.double())[32:-32, 32:-32]
    assert 10 * math.log10(255**2 / error.square().mean().item()) > 35


@pytest.mark.parametrize("middle", [(0.0, 0.0), (0.5, 0.3), (-0.4, 0.7), (0.2, -0.8)])
def test_a_dot_lands_where_the_pinhole_projects_it(middle: tuple[float, float]) -> None:
    source, target = _aria(448), virtual_pinhole((256, 256), 150 / 512)
    axis = torch.nn.functional.normalize(torch.tensor([*middle, 1.0], dtype=torch.float64), dim=0)

    def dot(directions: Tensor) -> Tensor:
        away = (directions - axis).square().sum(-1)
        return 255 * (-away / 0.02**2).exp()[..., None].expand(*away.shape, 3)

    redrawn = Resampler(source, target)(_drawn(source, dot)[0][None])[0, ..., 0].double()
    centres = pixel_centres((256, 256))
    found = (centres * redrawn[..., None]).sum((0, 1)) / redrawn.sum()
    expected, _ = target.project(axis)
    assert (found - expected).abs().max() < 0.5


def test_undistorting_is_the_same_for_one_frame_and_for_many() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (3, 64, 64, 3), generator=generator, dtype=torch.uint8)
    draw = Resampler(_aria(64), virtual_pinhole((32, 48), 150 / 512))
    assert torch.equal(draw(frames), torch.cat([draw(frame[None]) for frame in frames]))


def test_pixels_that_the_source_does_not_see_are_black() -> None:
    wide = virtual_pinhole((32, 48), 0.05)
    white = torch.full((1, 64, 64, 3), 255, dtype=torch.uint8)
    seen = Resampler(_aria(64), wide)(white)[0]
    assert (seen[0] == 0).all()
    assert (seen[:, 0] == 0).all()
    assert (seen[16, 24] == 255).all()


def test_supersampling_follows_the_source_pixels_under_one_target_pixel() -> None:
    target = virtual_pinhole((256, 256), 150 / 512)
    assert Resampler(_aria(448), target).supersamples == 3
    assert Resampler(_aria(800), target).supersamples == 5
    assert Resampler(_aria(64), target).supersamples == 1
