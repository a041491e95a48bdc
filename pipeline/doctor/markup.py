"""HTML out of text: everything is escaped unless it was made here."""

from collections.abc import Iterable, Sequence
from html import escape

_VOID = ("img", "meta", "br")


class Markup(str):
    """Text that is HTML already."""


def tag(name: str, /, *inside: str, **attributes: str) -> Markup:
    """An element; plain text inside it and in its attributes is escaped."""
    values = [f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items()]
    opened = f"<{name}{''.join(values)}>"
    if name in _VOID:
        return Markup(opened)
    return Markup(f"{opened}{joined(inside)}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """The parts one after the other, plain text escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table; columns after the first that hold numbers are set to the right."""
    body = [tag("tr", *(_cell(cell, place) for place, cell in enumerate(row))) for row in rows]
    columns = tag("tr", *(tag("th", name) for name in head))
    return tag("table", tag("thead", columns), tag("tbody", *body))


def _cell(text: str, place: int) -> Markup:
    is_number = place > 0 and text[:1].isdigit()
    return tag("td", text, class_="n") if is_number else tag("td", text)
