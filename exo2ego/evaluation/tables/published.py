"""The paper's tables as data: what each row is, in ours and in its own words, and its numbers."""

import tomllib
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field

METRICS = {"psnr": "PSNR↑", "ssim": "SSIM↑", "lpips": "LPIPS↓"}
"""Columns of every table, in its order: our name and the paper's heading."""


class _Published(BaseModel, frozen=True):
    model_config = ConfigDict(extra="forbid")


class System(_Published, frozen=True):
    """What was scored: an experiment, and the one whose Align predicted its first frames."""

    experiment: str = Field(description="name in exo2ego/experiments")
    align: str = Field(default="", description="the same; empty if Align has no part in it")

    def __str__(self) -> str:
        with_align = self.align and self.align != "align"
        return f"{self.experiment} on {self.align}" if with_align else self.experiment


class PublishedCells(System, frozen=True):
    """One system's three numbers in a row."""

    scores: tuple[float, float, float] = Field(description="PSNR in decibels, SSIM, LPIPS")

    @property
    def system(self) -> System:
        """Without the numbers."""
        return System(experiment=self.experiment, align=self.align)


class Row(_Published, frozen=True):
    """One row."""

    labels: tuple[str, ...] = Field(description="its first columns")
    category: str = Field(description="whose takes are scored, as stores call it")
    cells: tuple[PublishedCells, ...] = Field(description="one for each system of the table")


class Table(_Published, frozen=True):
    """One table."""

    number: int
    title: str = Field(description="ours: captions are the authors' text")
    labels: tuple[str, ...] = Field(description="headings of the first columns")
    systems: tuple[str, ...] = Field(
        default=("",), description="headings over groups of the three metrics (Table 4)"
    )
    rows: tuple[Row, ...]


class _Tables(_Published, frozen=True):
    tables: tuple[Table, ...]


@cache
def published_tables() -> tuple[Table, ...]:
    """Tables 1 to 6 of the paper, in order."""
    text = (files("exo2ego") / "evaluation" / "tables" / "published.toml").read_text("utf-8")
    return _Tables.model_validate(tomllib.loads(text)).tables


def published_table(number: int) -> Table:
    """One of them; KeyError if there is no such table."""
    return {table.number: table for table in published_tables()}[number]
