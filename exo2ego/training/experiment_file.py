"""Experiments on disk: TOML, named or of a user's own, with `--set` overrides; their faults."""

import difflib
import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from exo2ego.training.experiment import EXPERIMENTS, Experiment
from exo2ego.training.experiment_keys import keys_of_place, known_keys, values_of
from stores.errors import UserFault

BARE_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""What `--set` takes as a string without quotes."""


class ExperimentFault(UserFault, ValueError):
    """An experiment file or a `--set` that does not say what to train."""


def experiment_names() -> list[str]:
    """Names of the experiments that come with the package."""
    folder = files("exo2ego") / "experiments"
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml"))


def load_experiment(name_or_path: str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of that name, or in that TOML file, after `key=value` overrides.

    Values are TOML; a bare word is a string. Raises ExperimentFault for what it cannot take.
    """
    tree = _read_toml(name_or_path)
    for override in overrides:
        _put(tree, override)
    return parse_experiment(tree, where=name_or_path)


def parse_experiment(tree: dict[str, Any], *, where: object) -> Experiment:
    """The experiment with these values; `where` is what a fault names as their origin."""
    kind = EXPERIMENTS.get(str(tree.get("stage")))
    if kind is None:
        raise ExperimentFault(
            "This experiment does not say which stage it trains.",
            where=f"{where}, key stage",
            expected=f"one of {', '.join(EXPERIMENTS)}",
            got=tree.get("stage", "nothing"),
            fix='Add a line such as stage = "align".',
        )
    try:
        return kind.model_validate_json(orjson.dumps(tree), strict=True)
    except ValidationError as cause:
        raise _fault_of(cause, kind, where, tree) from cause


def settings_of(tree: dict[str, Any], *, where: object) -> dict[str, Any]:
    """Every value of an experiment as plain JSON, by its dotted key.

    A run that is older than a key was trained with that key's default.
    """
    return values_of(parse_experiment(tree, where=where))


def _read_toml(name_or_path: str) -> dict[str, Any]:
    """The tree of a named experiment, or of a file."""
    shipped = files("exo2ego") / "experiments" / f"{name_or_path}.toml"
    source = shipped if name_or_path in experiment_names() else Path(name_or_path)
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
        raise ExperimentFault(
            "This experiment cannot be read.",
            where=name_or_path,
            expected=f"a TOML file, or one of the names {', '.join(experiment_names())}",
            got=f"{type(cause).__name__}: {cause}",
            fix="Give one of the names, or the path of your own file.",
        ) from cause


def _put(tree: dict[str, Any], override: str) -> None:
    """Writes one `key.in.the.tree=value` into the tree."""
    key, equals, text = override.partition("=")
    *path, last = key.strip().split(".")
    for name in path:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise _override_fault(override, f"{name} is a value, not a table")
    if not (equals and last):
        raise _override_fault(override, "no key or no '='")
    tree[last] = _value(override, text.strip())


def _value(override: str, text: str) -> Any:
    """A value in TOML syntax; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as cause:
        if BARE_WORD.fullmatch(text):
            return text
        raise _override_fault(override, f"{text!r}: {cause}") from cause


def _override_fault(override: str, got: str) -> ExperimentFault:
    return ExperimentFault(
        "This override cannot be read.",
        where=f"--set {override}",
        expected="key=value with a TOML value, such as optimiser.steps=50",
        got=got,
        fix="Write tables with dots, and strings in quotes if they are not one bare word.",
    )


def _fault_of(
    cause: ValidationError, kind: type[Experiment], where: object, tree: dict[str, Any]
) -> ExperimentFault:
    """The first of pydantic's complaints, in five parts."""
    first = cause.errors()[0]
    key = ".".join(keys_of_place(first["loc"], tree))
    keys = list(dict.fromkeys(known_keys(kind, tree)))
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, keys, n=1) or ["one of the known keys"]
        expected, got, fix = ", ".join(keys), f"the unknown key {key}", f"Use {close[0]}."
    elif first["type"] == "union_tag_not_found":
        expected, got = "a name that says which alternative is meant", repr(first["input"])
        fix = f"Add {key}.name; the experiments in exo2ego/experiments have examples."
    else:
        got = "nothing" if first["type"] == "missing" else repr(first["input"])
        expected, fix = first["msg"], f"Mend {key} in the file, or with --set {key}=..."
    return ExperimentFault(
        "This experiment does not fit its stage.",
        where=f"{where}, key {key}",
        expected=expected,
        got=got,
        fix=fix,
    )
