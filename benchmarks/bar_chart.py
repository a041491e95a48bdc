"""A picture of read rates: a bar a reader, and a line where the floor is."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.rows import Row

_UNIT = "clips/s"
_WIDTH, _LINE, _NAMES, _MARGIN = 1100, 30, 400, 20
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
_FLOOR, _OURS, _OTHERS = (150, 150, 150), (0, 114, 178), (213, 94, 0)  # told apart by all eyes


def draw_rates(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Writes a PNG of all rows in clips/s, the fastest on top; the line is the first floor."""
    rates = [(row.what, row.value) for row in rows if row.unit == _UNIT and row.value is not None]
    rates.sort(key=lambda pair: -pair[1])
    floors = [rate for name, rate in rates if name.startswith("floor") and "1 thread" in name]
    size = (_WIDTH, 2 * _MARGIN + _LINE * (len(rates) + 1))
    image = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=15)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=font)
    room = _WIDTH - _NAMES - _MARGIN - 80
    px_of = room / max((rate for _, rate in rates), default=1.0)
    for line, (name, rate) in enumerate(rates, start=1):
        top = _MARGIN + line * _LINE
        right = _NAMES + rate * px_of
        draw.rectangle((_NAMES, top + 3, right, top + _LINE - 5), fill=_colour(name))
        draw.text((_NAMES - 10, top + 4), name, fill=_INK, font=font, anchor="ra")
        draw.text((right + 8, top + 4), f"{rate:,.0f}", fill=_INK, font=font)
    for floor in floors:
        x = _NAMES + floor * px_of
        draw.line((x, _MARGIN + _LINE, x, size[1] - _MARGIN), fill=_INK, width=1)
    image.save(path, optimize=True)


def _colour(name: str) -> tuple[int, int, int]:
    if name.startswith(("floor", "one raw file")):
        return _FLOOR
    return _OURS if name.startswith("our") else _OTHERS
