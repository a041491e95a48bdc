"""Scores of systems over seeds, take by take: from folders that are scored, and as one CSV file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pyarrow as pa
from pyarrow import csv

from exo2ego.evaluation.scores import Score
from exo2ego.evaluation.tables.result import SCORES, Result, ResultFault, read_result
from stores.atomic import whole_file

MEASURED = (
    "psnr",
    "ssim",
    "view_bias_pixels",
    "motion_on_time",
    "motion_lateness",
    "sharpness_log2",
)
"""Measures that need no weights of others, and that blurred videos have, too."""
_WORDS, _COUNTS = ("system", "store", "take"), ("seed", "clips")
LINES = pa.schema(
    [(name, pa.string()) for name in _WORDS]
    + [(name, pa.int64()) for name in _COUNTS]
    + [(name, pa.float64()) for name in MEASURED]
)
"""Of the CSV. Clips are those of all takes of the seed."""


@dataclass(frozen=True)
class SeedScores:
    """A system's scores for one seed."""

    system: str
    seed: int
    store_hash: str
    clips: int
    """Of all takes."""
    takes: dict[str, dict[str, float]]
    """By take, by measure; what is not measured there is left out."""

    @property
    def name(self) -> str:
        """What a fault calls it."""
        return f"{self.system}, seed {self.seed}"

    def mean(self, measure: str) -> float:
        """Over the takes in which it is measured."""
        return fmean(of[measure] for of in self.takes.values() if measure in of)


def read_seeds(results: Mapping[str, Sequence[Path]]) -> list[SeedScores]:
    """Scores of each system's folders, one a seed; folders that are not scored are left out.

    Raises ResultFault for a result that cannot be read, or for scores of other clips.
    """
    there = {
        (system, seed): read_result(folder)
        for system, folders in results.items()
        for seed, folder in enumerate(folders)
        if (folder / SCORES).is_file()
    }
    found = [_of_seed(system, seed, result) for (system, seed), result in there.items()]
    _check_same({one.name: frozenset(one.scores.clips) for one in there.values()}, "clips")
    return found


def _of_seed(system: str, seed: int, result: Result) -> SeedScores:
    takes = {take: _numbers(score) for take, score in result.scores.takes.items()}
    clips = len(result.scores.clips)
    return SeedScores(system, seed, result.settings.store_hash, clips, takes)


def _numbers(score: Score) -> dict[str, float]:
    values = {measure: getattr(score, measure) for measure in MEASURED}
    return {measure: value for measure, value in values.items() if not isinstance(value, str)}


def write_scores(path: Path, scores: Sequence[SeedScores]) -> None:
    """A CSV of a line for each take of each system and seed; empty where nothing is measured."""
    lines = [
        {"system": one.system, "seed": one.seed, "store": one.store_hash, "clips": one.clips}
        | {"take": take}
        | of_take
        for one in scores
        for take, of_take in one.takes.items()
    ]
    with whole_file(path) as file:
        csv.write_csv(pa.Table.from_pylist(lines, schema=LINES), file)


def read_scores(path: Path) -> list[SeedScores]:
    """What `write_scores` wrote.

    Raises ResultFault for another file, or for seeds of other takes.
    """
    options = csv.ConvertOptions(column_types=LINES, include_columns=LINES.names)
    try:
        lines = csv.read_csv(path, convert_options=options).to_pylist()
    except (OSError, pa.ArrowException) as cause:
        raise ResultFault(
            "These are not scores by take and seed.",
            where=path,
            expected=f"a CSV of {', '.join(LINES.names)}",
            got=f"{type(cause).__name__}: {cause}",
            fix="Take the mini.csv that `exo2ego reproduce mini` writes.",
        ) from cause
    found: dict[tuple[str, int], SeedScores] = {}
    for line in lines:
        measured = {name: line[name] for name in MEASURED if line[name] is not None}
        one = SeedScores(line["system"], line["seed"], line["store"], line["clips"], {})
        one = found.setdefault((one.system, one.seed), one)
        one.takes[line["take"]] = measured
    _check_same({one.name: frozenset(one.takes) for one in found.values()}, "takes")
    return list(found.values())


def _check_same(sets: Mapping[str, frozenset[str]], what: str) -> None:
    """Raises ResultFault unless every one of the named sets is the same."""
    whole = set(sets.values())
    if len(whole) > 1:
        raise ResultFault(
            f"These scores are of different {what}.",
            where=", ".join(sets),
            expected=f"the same {what} everywhere",
            got=f"{len(whole)} sets of {what}, of {sorted(map(len, whole))} {what}",
            fix="Sample and score what is missing; the plan says what is there.",
        )
