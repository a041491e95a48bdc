"""The evidence of the miniature world (docs/experiments.md): its systems, in the issue's order."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from exo2ego.evaluation.reproduce.settings import PlannedStore, Ways
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
OURS = "ours"
_ALIGN = "mini-align"
SYSTEMS: Mapping[str, System] = {
    "VAWAN": System(experiment="mini-vawan", align=_ALIGN),
    "ours without EgoExo-Align": System(experiment="mini-poseinj-no-align"),
    "ours without PoseInj": System(experiment="mini-multiexocon-alone", align=_ALIGN),
    OURS: System(experiment="mini-poseinj", align=_ALIGN),
    "ours, given the true first frame": System(experiment="mini-poseinj-gt"),
}
"""By what they are called in the table. Every one is trained for as many steps."""
_VIEW = 0
"""The exo view that the foundation model goes on from."""


def mini_ways(ways: Ways) -> Ways:
    """The same on the package's own weights, which come with it, and on all test clips."""
    clips = ways.evaluation_set or SET
    return replace(ways, wan=MINI, vae=MINI, evaluation_set=clips, guidance=GUIDANCE, batch=BATCH)


def plan_mini(planned: PlannedStore, seeds: int = SEEDS) -> list[Step]:
    """Every step for so many seeds; Align, and what it predicts, is shared by all of them."""
    found: dict[tuple[object, ...], Step] = {}
    for seed in range(seeds):
        of_seed = replace(planned, seed=seed)
        steps = [*_foundation_steps(of_seed, seed)]
        steps += [step for system in SYSTEMS.values() for step in system_steps(of_seed, system)]
        for step in steps:
            shared = step.kind in ("align", "first frames")
            found.setdefault((step.kind, step.name, None if shared else seed), step)
    return sorted(found.values(), key=lambda step: KINDS.index(step.kind))


def mini_results(planned: PlannedStore, seeds: int = SEEDS) -> dict[str, list[Path]]:
    """The folder of samples of each row and seed, by the row's name."""
    each = [replace(planned, seed=seed) for seed in range(seeds)]
    rows = {name: [one.samples(system) for one in each] for name, system in SYSTEMS.items()}
    return {FOUNDATION: [_foundation_samples(one) for one in each], **rows}


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
