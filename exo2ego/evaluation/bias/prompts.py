"""The prompts of the bias probe: two families, in a TOML file.

negative = ""                                  # may be left out
general = ["A person repairs a bike."]
ego = ["First-person view of a person who repairs a bike."]
"""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from stores.errors import UserFault

Family = Literal["general", "ego"]
_Texts = Annotated[
    tuple[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)], ...],
    Field(min_length=1),
]
SHIPPED = "prompts.toml"


class PromptsFault(UserFault, ValueError):
    """A file of prompts that cannot be used."""


class Prompt(NamedTuple):
    """One prompt, and what its videos are called."""

    family: Family
    name: str
    """Such as ego-2, counted from 1."""
    text: str


class Prompts(BaseModel):
    """Prompts of the two families of the paper's section 6."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    general: _Texts = Field(description="not about the task")
    ego: _Texts = Field(description="such that ask for the ego view")
    negative: str = Field(default="", description="for all of them; diffusers' default is none")

    @property
    def all(self) -> list[Prompt]:
        """Every prompt, general ones first."""
        families: dict[Family, _Texts] = {"general": self.general, "ego": self.ego}
        return [
            Prompt(family, f"{family}-{number}", text)
            for family, texts in families.items()
            for number, text in enumerate(texts, start=1)
        ]


def read_prompts(path: Path | None = None) -> Prompts:
    """The prompts of a file; None means those of the package. Raises PromptsFault."""
    source = path if path is not None else files("exo2ego.evaluation.bias") / SHIPPED
    try:
        return Prompts.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as cause:
        raise PromptsFault(
            "These are no prompts of two families.",
            where=source,
            expected='TOML with general = ["..."], ego = ["..."] and perhaps negative = "..."',
            got=f"{type(cause).__name__}: {cause}",
            fix="See docs/evaluation.md for an example, or leave --prompts out.",
        ) from cause
