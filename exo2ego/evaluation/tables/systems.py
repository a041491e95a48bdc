"""Which experiment of ours a run is, by its settings alone, and what of it is not as shipped."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from exo2ego.evaluation.origin import Origin
from exo2ego.evaluation.tables.published import System, published_tables
from exo2ego.training.experiment_file import load_experiment, settings_of
from exo2ego.training.experiment_keys import values_of
from exo2ego.training.lineage import Trained

HOW_IT_IS_TRAINED = (
    "seed",
    "precision",
    "checkpoint_every",
    "keep_checkpoints",
    "optimiser.",
    "batch.",
    "memory.",
)
"""Keys (or their beginnings) that do not make another system. Choice: a run that differs in these
is the row's, and the difference is told; one that differs in any other key is no row's."""
UNTOLD = ("checkpoint_every", "keep_checkpoints")
"""Of these, what no result depends on."""
_STEPS = "optimiser.steps"
PARENTS: Mapping[str, str] = {
    "poseinj": "multiexocon",
    "poseinj-gt": "multiexocon-gt",
    "mini-poseinj": "mini-multiexocon",
    "mini-poseinj-gt": "mini-multiexocon-gt",
    "mini-poseinj-gt-motion": "mini-multiexocon-gt",
    "mini-poseinj-no-align": "mini-multiexocon-no-align",
}
"""What an experiment goes on from (3.4.2), as the files in exo2ego/experiments say."""


@cache
def row_systems() -> tuple[System, ...]:
    """The systems of all rows, each once, in the order of the tables."""
    cells = (c for table in published_tables() for row in table.rows for c in row.cells)
    return tuple(dict.fromkeys(cell.system for cell in cells))


def find_system(origin: Origin) -> System | str:
    """The system of the tables that made some samples; or, in words, why it is none.

    Raises ExperimentFault for an experiment of another version.
    """
    name = _exact(origin.run)
    if name not in {system.experiment for system in row_systems()}:
        return _unlike(origin.run)
    for parent in origin.parents:
        if _exact(parent) != PARENTS.get(name):
            wanted = PARENTS.get(name, "nothing")
            return f"{name}, which goes on from {wanted}, on {_unlike(parent)}"
    if _shipped(name)["condition.source.name"] != "align":
        return System(experiment=name)
    if origin.align is None:
        return f"{name} on first frames that do not say which Align made them"
    system = System(experiment=name, align=_exact(origin.align) or "")
    return system if system in row_systems() else f"{name} on {_unlike(origin.align)}"


def deviations(origin: Origin, system: System) -> list[str]:
    """What is not as the row's experiments say, in words: `optimiser.steps = 20, not 100000`."""
    parts = {"": (origin.run, system.experiment)}
    for parent in origin.parents:
        parts[f"{parent.experiment['stage']}: "] = (parent, PARENTS[system.experiment])
    if origin.align and system.align:
        parts["align: "] = (origin.align, system.align)
    told = {prefix: _deviations(trained, name) for prefix, (trained, name) in parts.items()}
    found = [prefix + ", ".join(words) for prefix, words in told.items() if words]
    return [*found, *_other_stores(origin)]


def _deviations(trained: Trained, name: str) -> list[str]:
    shipped, own = _shipped(name), _leaves(trained)
    wrong = [key for key in shipped if own.get(key) != shipped[key] and key not in UNTOLD]
    words = [f"{key} = {own.get(key)}, not {shipped[key]}" for key in wrong]
    if trained.began_with:
        words.append(f"began with weights {trained.began_with[:12]}")
    if trained.step != own[_STEPS]:
        words.append(f"step {trained.step} of {own[_STEPS]}: not finished")
    return words


def _other_stores(origin: Origin) -> list[str]:
    """Parts that were trained on another store than the run."""
    parts = [*origin.parents, *([origin.align] if origin.align else [])]
    others = {part.store_hash for part in parts} - {origin.run.store_hash}
    return [f"a part of it was trained on another store ({name[:12]})" for name in sorted(others)]


def _exact(trained: Trained) -> str | None:
    """The experiment of the paper that it is, however it was trained."""
    return next((name for name in _names() if not _differences(trained, name)), None)


def _unlike(trained: Trained) -> str:
    """How it differs from the experiment that is closest to it, in words."""
    own = _leaves(trained)
    keys = {name: _differences(trained, name) for name in _names()}
    name = min(keys, key=lambda name: len(keys[name]))
    if not keys[name]:
        return f"{name}, which has no such row"
    shipped = _shipped(name)
    told = ", ".join(f"{key} = {own.get(key)}, not {shipped.get(key)}" for key in keys[name])
    return f"an experiment like {name}, but with {told}"


def _differences(trained: Trained, name: str) -> list[str]:
    """The keys that make another system of it."""
    own, shipped = _leaves(trained), _shipped(name)
    keys = dict.fromkeys([*shipped, *own])
    return [
        key
        for key in keys
        if own.get(key) != shipped.get(key) and not key.startswith(HOW_IT_IS_TRAINED)
    ]


def _leaves(trained: Trained) -> dict[str, Any]:
    return settings_of(trained.experiment, where="the experiment of a result")


@cache
def _names() -> tuple[str, ...]:
    """Every experiment that a row names, or that one of these needs."""
    systems = row_systems()
    names = [name for system in systems for name in (system.experiment, system.align) if name]
    return tuple(dict.fromkeys(names))


@cache
def _shipped(name: str) -> dict[str, Any]:
    return values_of(load_experiment(name))
