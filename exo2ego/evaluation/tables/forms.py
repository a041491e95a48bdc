"""The registry of forms in which the tables can be written."""

from collections.abc import Callable, Sequence

from exo2ego.evaluation.tables.html import html
from exo2ego.evaluation.tables.latex import latex
from exo2ego.evaluation.tables.markdown import markdown
from exo2ego.evaluation.tables.page import Section

FORMS: dict[str, Callable[[Sequence[Section]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "html": html,
}
"""By the name that `--format` takes."""
