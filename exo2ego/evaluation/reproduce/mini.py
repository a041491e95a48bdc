"""The evidence of the miniature world (docs/experiments.md): a table's steps, and its scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from exo2ego.evaluation.reproduce.commands import (
    NOT_YET,
    chosen_set,
    evaluate_step,
    frames_step,
    store_and_device,
    system_steps,
)
from exo2ego.evaluation.reproduce.mini_tables import MiniTable
from exo2ego.evaluation.reproduce.settings import ALIGN, PlannedStore, Ways
from exo2ego.evaluation.reproduce.step import KINDS, Step
from exo2ego.evaluation.reproduce.there import digest_if_known, videos_done
from exo2ego.evaluation.tables.published import System
from exo2ego.model.pretrained import MINI
from exo2ego.training.first_frame_sources import frame_maker, frame_source

SEEDS = 3
SET = "test-all"
"""All clips of the test takes: one a take are too few to tell systems apart."""
BATCH = 20
"""Clips that are solved together."""
GUIDANCE = 1.0
"""Choice: none. With the paper's 3.5 a model of this size lost 2.2 dB (docs/decisions.md)."""
FOUNDATION = "foundation, given an exo frame"
_VIEW = 0
"""The exo view that the foundation model goes on from."""


def mini_ways(ways: Ways) -> Ways:
    """The same on the package's own weights, which come with it, and on all test clips."""
    clips = ways.evaluation_set or SET
    return replace(ways, wan=MINI, vae=MINI, evaluation_set=clips, guidance=GUIDANCE, batch=BATCH)


def plan_mini(planned: PlannedStore, table: MiniTable, seeds: int = SEEDS) -> list[Step]:
    """Every step for so many seeds; Align, and what it predicts, is shared by all of them."""
    found: dict[tuple[object, ...], Step] = {}
    for row in _rows(planned, table, seeds):
        for step in row.steps:
            shared = step.kind in ("align", "first frames")
            found.setdefault((step.kind, step.name, None if shared else row.seed), step)
    return sorted(found.values(), key=lambda step: KINDS.index(step.kind))


def mini_results(
    planned: PlannedStore, table: MiniTable, seeds: int = SEEDS
) -> dict[str, list[Path]]:
    """The folder of samples of each row and seed, by the row's name."""
    found: dict[str, list[Path]] = {}
    for row in _rows(planned, table, seeds):
        found.setdefault(row.name, []).append(row.samples)
    return found


@dataclass(frozen=True, eq=False)
class _SeedRow:
    """A row of one seed: where its samples are to be, and what makes them and their scores."""

    name: str
    seed: int
    samples: Path
    steps: Sequence[Step]


def _rows(planned: PlannedStore, table: MiniTable, seeds: int) -> Iterator[_SeedRow]:
    """Each seed's rows in the table's order; an Align by itself, trained once, has the first."""
    for seed in range(seeds):
        one = replace(planned, seed=seed)
        if table.has_foundation:
            yield _SeedRow(FOUNDATION, seed, _foundation_samples(one), _foundation_steps(one, seed))
        for name, system in table.systems.items():
            if seed == 0 or planned.experiment(system).stage != ALIGN:
                yield _SeedRow(name, seed, one.samples(system), system_steps(one, system))


def _foundation_samples(planned: PlannedStore) -> Path:
    return planned.samples(System(experiment="foundation"))


def _foundation_steps(planned: PlannedStore, seed: int) -> Sequence[Step]:
    maker = frame_maker(frame_source("exo", _VIEW), None)
    samples, ways, store = _foundation_samples(planned), planned.ways, planned.store
    options = ["--wan", ways.wan, "--vae", ways.vae, "--steps", str(ways.solver_steps)]
    options += ["--seed", str(seed), "--out", str(samples), *chosen_set(planned)]

    def words() -> list[str]:
        digest = digest_if_known(store, maker) or NOT_YET
        first = ["baseline", *store_and_device(planned), "--method", "foundation"]
        return [*first, "--first-frames", digest, *options]

    made_with = {"store_hash": store.hash, "baseline.seed": seed}
    made_with["baseline.steps"] = ways.solver_steps
    done = partial(videos_done, samples, planned.clip_ids, made_with)
    videos = Step("baseline", "foundation", words, len(planned.clip_ids), "clips", done)
    return [frames_step(planned, maker), videos, evaluate_step(planned, samples, "foundation")]
