"""The bias probe's contact sheet: a row a video, what was given at the left, what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from exo2ego.evaluation.scores import NOT_MEASURED, Number
from stores.atomic import write_whole

LINE_ROWS = 14
"""Pixels of a line of text."""
INK, NOT_EGO = (235, 235, 235), (235, 64, 52)
FRAME = 3
"""Pixels of the border around a frame that is nearer to the exo frame: the red of Fig. 5."""
CUT = "..."


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One video, and what is said of it."""

    lines: Sequence[str]
    """Above the pictures; what is too long is cut."""
    pictures: Sequence[UInt8[np.ndarray, "H W 3"]]
    captions: Sequence[str]
    """One a picture."""
    marked: Sequence[bool]
    """Which pictures get the red border."""


def video_row(
    line: str,
    exo: UInt8[np.ndarray, "H W 3"],
    truth: UInt8[np.ndarray, "H W 3"],
    frames: UInt8[np.ndarray, "T H W 3"],
    biases: tuple[Number, Number],
) -> SheetRow:
    """What was given, the first true frame, and the first, middle and last generated ones.

    `biases` are of the first and of the last frame: those above 0 are nearer to what was given.
    """
    shown = [0, len(frames) // 2, len(frames) - 1]
    known = [biases[0], NOT_MEASURED, biases[1]]
    return SheetRow(
        [line],
        [exo, truth, *frames[shown]],
        ["given", "ego truth", *map(_caption, shown, known)],
        [False, False, *(isinstance(bias, float) and bias > 0 for bias in known)],
    )


def write_sheet(path: Path, rows: Sequence[SheetRow]) -> None:
    """A PNG of all rows, whole or not at all; all must have as many pictures of one size."""
    sheet, buffer = np.concatenate([_drawn(row) for row in rows]), BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())


def _drawn(row: SheetRow) -> UInt8[np.ndarray, "H2 W2 3"]:
    """The row's lines, its captions, its pictures."""
    framed = [
        _framed(picture) if marked else picture
        for picture, marked in zip(row.pictures, row.marked, strict=True)
    ]
    pictures = rearrange(np.stack(framed), "n H W rgb -> H (n W) rgb")
    width, each = pictures.shape[1], row.pictures[0].shape[1]
    above = Image.new("RGB", (width, LINE_ROWS * (len(row.lines) + 1) + 2))
    draw = ImageDraw.Draw(above)
    for number, line in enumerate(row.lines):
        draw.text((3, LINE_ROWS * number), _cut(draw, line, width - 6), fill=INK)
    for number, caption in enumerate(row.captions):
        place = (each * number + 3, LINE_ROWS * len(row.lines))
        draw.text(place, _cut(draw, caption, each - 6), fill=INK)
    return np.concatenate([np.asarray(above), pictures])


def _caption(number: int, bias: Number) -> str:
    return f"frame {number}" + (f", bias {bias:+.2f}" if isinstance(bias, float) else "")


def _framed(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    framed = np.full_like(picture, NOT_EGO)
    inner = slice(FRAME, -FRAME)
    framed[inner, inner] = picture[inner, inner]
    return framed


def _cut(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text, or as much of its beginning as fits with three dots."""
    if draw.textlength(text) <= width:
        return text
    kept = text
    while kept and draw.textlength(kept + CUT) > width:
        kept = kept[:-1]
    return kept + CUT
