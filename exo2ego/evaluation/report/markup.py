"""Pieces of HTML: escaped words, links, tables that scroll, ranges as small pictures."""

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from exo2ego.evaluation.scores import Interval, Number

RANGE_WIDTH, RANGE_HEIGHT, MARGIN = 90, 10, 4
"""Of a range's picture, in pixels."""


def table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1
) -> str:
    """A table of cells that are HTML already; the first `words` columns are to the left."""
    heads = "".join(
        f'<th scope="col"{_kind(number, words)}>{escape(word)}</th>'
        for number, word in enumerate(header)
    )
    body = "\n".join(f"<tr>{_row(row, words)}</tr>" for row in rows)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">\n'
        f"<table><caption><span>{escape(caption)}</span></caption>\n<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table>\n</div>\n"
    )


def clip_link(clip_id: str) -> str:
    """A link to the clip's videos."""
    return f'<a href="#{anchor(clip_id)}">{escape(clip_id)}</a>'


def anchor(clip_id: str) -> str:
    """The id of a clip's videos on the page."""
    return f"clip-{quote(clip_id, safe='')}"


def items(lines: Sequence[str]) -> str:
    """A list of lines of plain text."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>\n"


def number(value: Number | None, sign: bool = False) -> str:
    """A number as tables have it."""
    if value is None or isinstance(value, str):
        return "not measured"
    return f"{value:+.4f}" if sign else f"{value:.4f}"


def with_range(value: Number, ends: Interval | None, low: float, high: float) -> str:
    """A mean, its interval in words, and both as a picture on the scale from `low` to `high`."""
    if isinstance(value, str) or ends is None or isinstance(ends.low, str):
        return number(value)
    assert not isinstance(ends.high, str)
    picture = _range(value, ends.low, ends.high, low, high)
    words = f"{number(ends.low)} to {number(ends.high)}"
    return f'{number(value)}<br><span class="interval">{words}</span><br>{picture}'


def _range(value: float, start: float, end: float, low: float, high: float) -> str:
    """A line from start to end with a dot at the value."""
    width = (high - low) or 1.0
    a, b, at = (
        MARGIN + (RANGE_WIDTH - 2 * MARGIN) * (each - low) / width for each in (start, end, value)
    )
    middle = RANGE_HEIGHT / 2
    return (
        f'<svg width="{RANGE_WIDTH}" height="{RANGE_HEIGHT}" aria-hidden="true">'
        f'<line x1="{a:.1f}" x2="{b:.1f}" y1="{middle}" y2="{middle}"/>'
        f'<circle cx="{at:.1f}" cy="{middle}" r="3"/></svg>'
    )


def _row(cells: Sequence[str], words: int) -> str:
    first, *others = cells
    rest = "".join(
        f"<td{_kind(number, words)}>{cell}</td>" for number, cell in enumerate(others, start=1)
    )
    return f'<th scope="row">{first}</th>{rest}'


def _kind(number: int, words: int) -> str:
    return ' class="word"' if number < words else ""
