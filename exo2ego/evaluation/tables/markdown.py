"""Sections as Markdown tables."""

from collections.abc import Sequence

from exo2ego.evaluation.tables.page import Section


def markdown(sections: Sequence[Section]) -> str:
    """The page, with cells padded so that it reads as plain text, too."""
    return "\n\n".join(_section(section) for section in sections) + "\n"


def _section(section: Section) -> str:
    cells = [[_escaped(word) for word in row] for row in (section.header, *section.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    left = [number < section.words for number in range(len(widths))]
    rule = [
        "-" * width if to_left else "-" * (width - 1) + ":"
        for width, to_left in zip(widths, left, strict=True)
    ]
    header, *rows = [
        [
            word.ljust(width) if to_left else word.rjust(width)
            for word, width, to_left in zip(row, widths, left, strict=True)
        ]
        for row in cells
    ]
    lines = [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]
    notes = [f"- {note}" for note in section.notes]
    parts = [f"### {section.title}", "\n".join(lines), "\n".join(notes)]
    return "\n\n".join(part for part in parts if part)


def _escaped(word: str) -> str:
    return word.replace("|", "\\|").replace("\n", " ")
