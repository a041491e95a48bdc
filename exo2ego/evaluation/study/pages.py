"""The participants' pages: HTML out of the templates of page/, and its static files."""

from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from exo2ego.evaluation.study.ballots import Choice

STATIC = {
    "study.css": "text/css; charset=utf-8",
    "study.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The files that pages may ask for, and their types."""
PANELS = (
    ("reference", "GREY · reference"),
    ("blue", "BLUE · candidate"),
    ("red", "RED · candidate"),
)
"""The panels of a row from left to right, with their captions."""
OPTIONS = (
    ("blue", "The blue video resembles the grey video better."),
    ("red", "The red video resembles the grey video better."),
    ("none", "Both options equally well represent the grey."),
)
"""The answers, in the paper's words (section 9)."""


class Pages:
    """Renders every page; templates are read once, and every value is escaped."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("exo2ego.evaluation.study", "page"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            auto_reload=False,
        )

    def instructions(self, token: str, choices: Sequence[Choice | None]) -> str:
        """The first page, with the way to where the participant stopped."""
        return self._render("instructions", token=token, **_progress(choices))

    def sample(self, token: str, number: int, choices: Sequence[Choice | None]) -> str:
        """The row of three videos of sample `number` (from 1), and the three answers."""
        about = {"number": number, "chosen": choices[number - 1]}
        shown = {"panels": PANELS, "options": OPTIONS}
        return self._render("sample", token=token, **about, **shown, **_progress(choices))

    def review(self, token: str, choices: Sequence[Choice | None]) -> str:
        """All answers and gaps, and the button that submits."""
        return self._render("review", token=token, choices=choices, **_progress(choices))

    def thanks(self, choices: Sequence[Choice | None]) -> str:
        """What is shown once the ballot is submitted."""
        return self._render("thanks", **_progress(choices))

    def problem(self, title: str, about: str, token: str | None = None) -> str:
        """What went wrong, and the way back if there is one."""
        return self._render("problem", title=title, about=about, token=token)

    def _render(self, name: str, **values: object) -> str:
        return self._templates.get_template(f"{name}.html").render(**values)


def static_file(name: str) -> bytes:
    """The bytes of one of STATIC."""
    return files("exo2ego.evaluation.study").joinpath("page", name).read_bytes()


def _progress(choices: Sequence[Choice | None]) -> dict[str, int]:
    """Samples in all, those with an answer, and the number of the first without (else 1)."""
    answered = sum(choice is not None for choice in choices)
    first_open = next((n for n, choice in enumerate(choices, start=1) if choice is None), 1)
    return {"total": len(choices), "answered": answered, "next": first_open}
