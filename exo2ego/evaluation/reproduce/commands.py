"""The commands of a plan: words, size, and how to tell how much of each is there."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from exo2ego.evaluation.reproduce.settings import ALIGN, PlannedStore, Ways, name_of
from exo2ego.evaluation.reproduce.step import Kind, Step
from exo2ego.evaluation.reproduce.there import (
    digest_if_known,
    frames_done,
    newest,
    samples_done,
    scores_done,
    steps_done,
)
from exo2ego.evaluation.tables.published import System
from exo2ego.evaluation.tables.systems import PARENTS
from exo2ego.training.describe import describe
from exo2ego.training.experiment import DiffusionExperiment
from exo2ego.training.experiment_keys import values_of
from exo2ego.training.first_frame_sources import FrameMaker, frame_maker

SECONDS_AN_HOUR = 3600
NOT_YET = "DIGEST"
"""Stands in a command for what is known when Align is trained."""


def system_steps(planned: PlannedStore, system: System) -> list[Step]:
    """Everything for a system's row: what it is trained on, its run, its samples, its scores."""
    scores = evaluate_step(planned, planned.samples(system), name_of(system))
    return [*_training(planned, system), _sample(planned, system), scores]


def _training(planned: PlannedStore, system: System) -> list[Step]:
    """The steps up to a system's run."""
    if system.experiment in PARENTS:
        return [*_training(planned, _parent(system)), _train(planned, system, "poseinj")]
    if planned.experiment(system).stage == ALIGN:
        return [_train(planned, system, "align")]
    align = _training(planned, System(experiment=system.align)) if system.align else []
    return [*align, _first_frames(planned, system), _train(planned, system, "train")]


def _parent(system: System) -> System:
    return System(experiment=PARENTS[system.experiment], align=system.align)


def _train(planned: PlannedStore, system: System, kind: Kind) -> Step:
    experiment, run = planned.experiment(system), planned.run(system)
    settings = [word for one in planned.overrides(experiment.stage) for word in ("--set", one)]
    first = ["train", "--stage", experiment.stage, "--experiment", system.experiment]

    def words() -> list[str]:
        more = [*_origin(planned, system, kind), "--out", str(run), *settings, "--resume"]
        return [*first, *store_and_device(planned), *more]

    total = experiment.optimiser.steps
    hours = partial(_hours, planned, system, total)
    done = partial(steps_done, run, partial(_made_with, planned, system, kind))
    return Step(kind, name_of(system), words, total, "steps", done, hours)


def _made_with(planned: PlannedStore, system: System, kind: Kind) -> dict[str, Any]:
    """What a run is made with; None where that is not there yet."""
    facts = values_of(planned.experiment(system))
    facts["store_hash"] = planned.store.hash
    if kind == "poseinj":
        parent = newest(planned.run(_parent(system)))
        facts["parent"] = parent.weights_digest if parent else None
    elif kind == "train":
        facts["first_frames"] = digest_if_known(planned.store, _maker(planned, system))
    return facts


def _origin(planned: PlannedStore, system: System, kind: Kind) -> list[str]:
    """The options that say what a run starts from."""
    if kind == "align":
        return []
    if kind == "poseinj":
        return ["--from", str(planned.run(_parent(system)))]
    digest = digest_if_known(planned.store, _maker(planned, system)) or NOT_YET
    return ["--wan", planned.ways.wan, "--first-frames", digest]


def _hours(planned: PlannedStore, system: System, steps: int) -> float:
    """The least that so many training steps take, as `describe` counts them."""
    shape, ways = planned.store.recipe.clips.shape, planned.ways
    about = describe(
        planned.experiment(system), clip=shape, wan_spec=ways.counted_wan, machine=ways.machine
    )
    return about.seconds_a_step * ways.machine.gpus * steps / SECONDS_AN_HOUR


def _maker(planned: PlannedStore, system: System) -> FrameMaker:
    """What makes the first frames that a system is given."""
    experiment = planned.experiment(system)
    assert isinstance(experiment, DiffusionExperiment)
    align = planned.run(System(experiment=system.align)) if system.align else None
    return frame_maker(experiment.condition.source, align)


def _first_frames(planned: PlannedStore, system: System) -> Step:
    if not system.align:
        return frames_step(planned, _maker(planned, system))
    run = planned.run(System(experiment=system.align))
    return frames_step(planned, _maker(planned, system), ["--align", str(run)], system.align)


def frames_step(
    planned: PlannedStore, maker: FrameMaker, source: Sequence[str] = (), name: str = ""
) -> Step:
    """First frames of one maker; `source` are its options, if its name is not enough."""
    name, options = name or maker.source.name, source or ["--from", maker.source.name]
    words = ["encode-first-frames", *store_and_device(planned), *options]
    words += ["--vae", planned.ways.vae]
    total = len(maker.clips(planned.store))
    done = partial(frames_done, planned.store, maker)
    return Step("first frames", name, lambda: words, total, "clips", done)


def _sample(planned: PlannedStore, system: System) -> Step:
    run, samples, ways = planned.run(system), planned.samples(system), planned.ways
    words = ["sample", *store_and_device(planned), "--checkpoint", str(run), "--out", str(samples)]
    words += ["--vae", ways.vae, *chosen_set(planned)]
    words += ["--batch", str(ways.batch)] if ways.batch > 1 else []
    expected: dict[str, Any] = {"store_hash": planned.store.hash}
    if planned.experiment(system).stage != ALIGN:
        options, wanted = _solver(ways)
        words, expected = words + options, expected | wanted
    done = partial(samples_done, run, samples, planned.clip_ids, expected)
    return Step("sample", name_of(system), lambda: words, len(planned.clip_ids), "clips", done)


def _solver(ways: Ways) -> tuple[list[str], dict[str, Any]]:
    """The options that say how a generator's samples are solved; what they say, by key."""
    words, expected = ["--steps", str(ways.solver_steps)], {"sampler.steps": ways.solver_steps}
    if ways.guidance is None:
        return words, expected
    guidance = {"sampler.guidance": ways.guidance}
    return [*words, "--guidance", str(ways.guidance)], expected | guidance


def evaluate_step(planned: PlannedStore, samples: Path, name: str) -> Step:
    """The scores of a folder of samples."""
    alexnet = planned.ways.alexnet
    words = ["evaluate", *store_and_device(planned), "--samples", str(samples)]
    words += ["--alexnet", str(alexnet)] if alexnet else []
    done = partial(scores_done, samples, planned.clip_ids, wants_lpips=alexnet is not None)
    return Step("evaluate", name, lambda: words, len(planned.clip_ids), "clips", done)


def chosen_set(planned: PlannedStore) -> list[str]:
    """The option that says which clips are meant."""
    chosen = planned.ways.evaluation_set
    return ["--set", chosen] if chosen else []


def store_and_device(planned: PlannedStore) -> list[str]:
    """The options of every command."""
    return ["--store", planned.name, "--device", planned.ways.device]
