"""Sections as one self-contained HTML page."""

from collections.abc import Sequence
from html import escape

from exo2ego.evaluation.tables.page import Section

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8886; }
th, td { vertical-align: baseline; }
td { white-space: nowrap; }
th.word, td.word, th[scope=row] { text-align: left; white-space: normal; }
ul { padding-left: 1.2rem; overflow-wrap: anywhere; }
"""


def html(sections: Sequence[Section]) -> str:
    """The page; it asks for nothing else, from nowhere."""
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>exo2ego: tables</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>The paper's tables</h1>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    heads = [
        f'<th scope="col"{_kind(section, number)}>{escape(word)}</th>'
        for number, word in enumerate(section.header)
    ]
    rows = "\n".join(f"<tr>{_row(section, row)}</tr>" for row in section.rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in section.notes)
    title = escape(section.title)
    return (
        f"<section>\n<h2>{title}</h2>\n"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">\n'
        f"<table>\n<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n"
        "</div>\n" + (f"<ul>{notes}</ul>\n" if notes else "") + "</section>"
    )


def _row(section: Section, row: Sequence[str]) -> str:
    first, *others = row
    cells = [
        f"<td{_kind(section, number)}>{escape(word)}</td>"
        for number, word in enumerate(others, start=1)
    ]
    return f'<th scope="row">{escape(first)}</th>' + "".join(cells)


def _kind(section: Section, number: int) -> str:
    return ' class="word"' if number < section.words else ""
