"""A result as the tables take it: what `exo2ego evaluate` wrote, read, checked and identified."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import orjson
from pydantic import ValidationError

from exo2ego.evaluation.manifest import SampleSettings
from exo2ego.evaluation.scores import Scores
from exo2ego.evaluation.tables.published import METRICS, System
from exo2ego.evaluation.tables.systems import deviations, find_system
from exo2ego.model.flow import SamplerSettings
from stores.errors import UserFault

SCORES = "scores.json"
"""What `evaluate` writes into a folder of samples."""


class ResultFault(UserFault, ValueError):
    """A result that cannot be read, or that does not fit the others."""


@dataclass(frozen=True, eq=False)
class Result:
    """One scores.json."""

    path: Path
    scores: Scores
    settings: SampleSettings
    """How its samples were made."""

    @cached_property
    def system(self) -> System | str:
        """Which system of the tables it is; or, in words, why it is none."""
        settings = self.settings
        if settings.baseline is not None:
            return f"the baseline {settings.stage}, which the paper does not have"
        if settings.origin is None:
            return "samples of an older version, which do not say which experiment made them"
        if settings.views is not None:
            return f"samples of exo views {', '.join(map(str, settings.views))} alone"
        return find_system(settings.origin)

    @cached_property
    def notes(self) -> list[str]:
        """What is not as in the paper, in words."""
        if isinstance(self.system, str) or self.settings.origin is None:
            return []
        usual = SamplerSettings().model_dump()
        own = (self.settings.sampler or SamplerSettings()).model_dump()
        found = deviations(self.settings.origin, self.system)
        found += [f"sampler.{k} = {own[k]}, not {usual[k]}" for k in usual if own[k] != usual[k]]
        if self.settings.weights not in (None, "full"):
            found.append(f"weights = {self.settings.weights}, not full")
        return found + (
            [f"{len(self.scores.missing)} clips missing"] if self.scores.missing else []
        )

    @property
    def clip_set(self) -> str:
        """The clips that were meant: an evaluation set, or a split."""
        clips = self.scores.provenance["clips"]
        return clips["evaluation_set"] or clips["split"]

    @property
    def name(self) -> str:
        """Its path, without the usual file name."""
        return str(self.path.parent if self.path.name == SCORES else self.path)

    def takes(self, category: str) -> int:
        """Takes of a category that were scored."""
        return self.scores.intervals[category]["psnr"].takes


def read_result(path: Path) -> Result:
    """The result at `path`: the JSON file, or the folder of samples that has it.

    Raises ResultFault if it cannot be read, is of another version, or has NaN.
    """
    file = path / SCORES if path.is_dir() else path
    try:
        scores = Scores.model_validate_json(file.read_bytes())
        settings = SampleSettings.model_validate_json(
            orjson.dumps(scores.provenance.get("samples"))
        )
    except (OSError, ValidationError) as cause:
        raise _unreadable(file, cause) from cause
    _check_version(file, scores)
    _check_numbers(file, scores)
    return Result(file, scores, settings)


def _check_version(file: Path, scores: Scores) -> None:
    """Raises ResultFault if it lacks what older versions did not write."""
    lacks = [key for key in ("clips", "method") if not scores.provenance.get(key)]
    lacks += [f"intervals.{name}" for name in scores.categories if name not in scores.intervals]
    if lacks:
        raise ResultFault(
            "This result was written by an older version.",
            where=file,
            expected="scores with intervals, and provenance with clips and method",
            got=f"none of {', '.join(lacks)}",
            fix="Run `exo2ego evaluate` on the samples again.",
        )


def _check_numbers(file: Path, scores: Scores) -> None:
    """Raises ResultFault for NaN, naming the clips that have it."""
    for what, group in (("clip", scores.clips), ("category", scores.categories)):
        for name, score in group.items():
            values = {metric: getattr(score, metric) for metric in METRICS}
            if bad := [m for m, v in values.items() if isinstance(v, float) and math.isnan(v)]:
                raise ResultFault(
                    "A score is not a number.",
                    where=f"{file}, {what} {name}",
                    expected="numbers, or not measured",
                    got=f"NaN for {', '.join(bad)}",
                    fix="Look at that clip's video, sample it anew, and run `exo2ego evaluate`.",
                )


def _unreadable(file: Path, cause: OSError | ValidationError) -> ResultFault:
    got = f"{type(cause).__name__}: {cause}"
    if isinstance(cause, ValidationError):
        first = cause.errors()[0]
        got = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return ResultFault(
        "This is not a result, or one of another version.",
        where=file,
        expected=f"{SCORES} as `exo2ego evaluate` writes it, or the folder that has it",
        got=got,
        fix="Run `exo2ego evaluate --store STORE --samples FOLDER` with this version.",
    )
