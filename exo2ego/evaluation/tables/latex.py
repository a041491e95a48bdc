"""Sections as LaTeX tables, for \\usepackage{booktabs}."""

from collections.abc import Sequence

from exo2ego.evaluation.tables.page import Section

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def latex(sections: Sequence[Section]) -> str:
    """The page as one `table` after the other; notes stand below each."""
    return "\n\n".join(_section(section) for section in sections) + "\n"


def _section(section: Section) -> str:
    numbers = len(section.header) - section.words
    # sentences would run off the page
    left = "l" if numbers else rf"p{{{0.9 / section.words:.2f}\linewidth}}"
    lines = [
        r"\begin{table}",
        rf"\caption{{{_escaped(section.title)}}}",
        rf"\begin{{tabular}}{{{left * section.words}{'r' * numbers}}}",
        r"\toprule",
        _row(section.header),
        r"\midrule",
        *map(_row, section.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize {_escaped(note)}" for note in section.notes),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _row(words: Sequence[str]) -> str:
    return " & ".join(map(_escaped, words)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(char, char) for char in text)
