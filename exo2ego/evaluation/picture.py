"""Pictures for people: mp4 files, the side-by-side of a clip's videos, and PNG strips."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from stores.errors import ShapeFault

CAPTION_ROWS = 16
"""Pixels above each video for its caption; even, as yuv420p wants."""
CAPTION_INK = (235, 235, 235)
QUALITY = "16"
"""libx264's constant rate factor: below 18 the loss is hard to see."""


@dataclass(frozen=True, eq=False)
class Panel:
    """One video of a side-by-side, and what stands above it."""

    caption: str
    frames: UInt8[np.ndarray, "T H W 3"]


def write_video(path: Path, frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> None:
    """An H.264 mp4 that every browser plays, whole or not at all.

    Chroma is halved (yuv420p), so an odd side gets one more row or column, the last one repeated.
    The index comes first, so that a browser needs one request.
    """
    odd = [(0, 0), *((0, side % 2) for side in frames.shape[1:3]), (0, 0)]
    even = np.pad(frames, odd, mode="edge")
    partial = path.with_name(path.name + ".partial")
    options = {"movflags": "+faststart"}
    with av.open(str(partial), "w", format="mp4", container_options=options) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": QUALITY}
        for image in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    partial.replace(path)


def side_by_side(
    exos: Sequence[Panel], truth: Panel | None, generated: Panel
) -> UInt8[np.ndarray, "T H W 3"]:
    """Two rows of captioned videos: the exo views, and at the right truth over generated.

    Without truth its place is black. Raises ShapeFault if the videos differ in size.
    """
    black = Panel("", np.zeros_like(generated.frames))
    truth = truth or black
    panels = [*exos, truth, generated]
    shapes = {panel.frames.shape for panel in panels}
    if len(shapes) != 1:
        raise ShapeFault(
            "Videos of different size cannot stand side by side.",
            where=", ".join(panel.caption for panel in panels),
            expected="the same frames, height and width",
            got=sorted(shapes),
            fix="Resize them first.",
        )
    columns = (len(exos) + 1) // 2
    upper = [*exos[:columns], truth]
    lower = [*exos[columns:], *[black] * (2 * columns - len(exos)), generated]
    tiles = np.stack([[_captioned(panel) for panel in row] for row in (upper, lower)])
    return rearrange(tiles, "down across T H W rgb -> T (down H) (across W) rgb")


def write_strip(path: Path, frames: UInt8[np.ndarray, "T H W 3"]) -> None:
    """A PNG with the frames side by side, first frame left."""
    Image.fromarray(rearrange(frames, "T H W rgb -> H (T W) rgb")).save(path, format="PNG")


def _captioned(panel: Panel) -> UInt8[np.ndarray, "T H2 W 3"]:
    """The video under a dark bar with its caption."""
    frames, _, width, _ = panel.frames.shape
    bar = Image.new("RGB", (width, CAPTION_ROWS))
    ImageDraw.Draw(bar).text((3, 2), panel.caption, fill=CAPTION_INK)
    bars = np.broadcast_to(np.asarray(bar), (frames, CAPTION_ROWS, width, 3))
    return np.concatenate([bars, panel.frames], axis=1)
