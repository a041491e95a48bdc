"""Videos and strips: what is written can be read back and says what it should."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from exo2ego.evaluation.picture import CAPTION_ROWS, Panel, side_by_side, write_strip, write_video
from stores.errors import ShapeFault


def ramp(hw: tuple[int, int], frames: int = 5, blue: int = 0) -> np.ndarray:
    """A video whose red grows to the right and whose green grows with time: kind to codecs."""
    video = np.zeros((frames, *hw, 3), np.uint8)
    video[..., 0] = np.linspace(30, 220, hw[1]).astype(np.uint8)
    video[..., 1] = np.linspace(20, 200, frames).astype(np.uint8)[:, None, None]
    video[..., 2] = blue
    return video


def read_video(path: Path) -> tuple[np.ndarray, av.VideoStream]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, stream


def test_a_video_keeps_frames_rate_and_colours(tmp_path: Path):
    truth = ramp((32, 48))
    write_video(tmp_path / "a.mp4", truth, fps=7.5)
    frames, stream = read_video(tmp_path / "a.mp4")
    assert frames.shape == truth.shape
    assert float(stream.average_rate) == 7.5
    assert stream.codec_context.pix_fmt == "yuv420p"
    assert np.abs(frames.astype(int) - truth).mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_an_odd_side_grows_by_one_and_keeps_the_picture(tmp_path: Path):
    truth = ramp((31, 47))
    write_video(tmp_path / "odd.mp4", truth, fps=30.0)
    frames, _ = read_video(tmp_path / "odd.mp4")
    assert frames.shape[1:3] == (32, 48)
    assert np.abs(frames[:, :31, :47].astype(int) - truth).mean() < 4


@pytest.mark.parametrize(("views", "columns"), [(2, 2), (3, 3), (4, 3)])
def test_truth_stands_over_generated_at_the_right_of_the_exo_views(views: int, columns: int):
    hw = (16, 32)
    exos = [Panel(f"cam0{view}", ramp(hw, blue=10 * view)) for view in range(views)]
    truth, generated = Panel("truth", ramp(hw, blue=200)), Panel("generated", ramp(hw, blue=250))
    picture = side_by_side(exos, truth, generated)
    tile = hw[0] + CAPTION_ROWS
    assert picture.shape == (5, 2 * tile, columns * hw[1], 3)
    assert (picture[:, CAPTION_ROWS:tile, -hw[1] :] == truth.frames).all()
    assert (picture[:, tile + CAPTION_ROWS :, -hw[1] :] == generated.frames).all()
    assert (picture[:, CAPTION_ROWS:tile, : hw[1]] == exos[0].frames).all()


def test_captions_are_written_above_the_frames():
    hw = (16, 64)
    panels = [Panel(name, ramp(hw)) for name in ("cam01", "cam02", "truth", "generated")]
    picture = side_by_side(panels[:2], panels[2], panels[3])
    assert picture[:, :CAPTION_ROWS, : hw[1]].max() > 200
    assert (picture[0, :CAPTION_ROWS] == picture[-1, :CAPTION_ROWS]).all()


def test_videos_of_different_size_are_refused():
    small, large = Panel("cam01", ramp((16, 16))), Panel("truth", ramp((16, 32)))
    with pytest.raises(ShapeFault, match="same frames"):
        side_by_side([small], large, large)


def test_a_strip_is_lossless_and_reads_left_to_right(tmp_path: Path):
    truth = ramp((16, 24))
    write_strip(tmp_path / "strip.png", truth)
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    assert strip.shape == (16, 5 * 24, 3)
    assert (strip[:, 24:48] == truth[1]).all()
