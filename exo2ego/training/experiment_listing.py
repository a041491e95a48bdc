"""The shipped experiments in a line each, one experiment key by key, and where two differ."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pydantic import BaseModel

from exo2ego.training.experiment import Experiment
from exo2ego.training.experiment_file import experiment_names, load_experiment

NO_SUCH_KEY = "(no such key)"
"""Stands for the value of a key that an experiment of another stage or variant does not have."""


@dataclass(frozen=True)
class ExperimentValue:
    """One key of an experiment."""

    key: str
    """Dotted, as `--set` takes it."""
    value: Any
    is_default: bool
    """False if the file, or a `--set`, says it."""
    about: str
    """What it is, and its source."""


@dataclass(frozen=True)
class ExperimentLine:
    """One experiment of a list."""

    name: str
    stage: str
    digest: str
    about: str
    """The first line of the file's opening comment."""
    said: dict[str, Any]
    """What the file says over the defaults of its stage."""


@dataclass(frozen=True)
class ExperimentDifferences:
    """Where two experiments differ."""

    digests: tuple[str, str]
    differences: dict[str, tuple[Any, Any]]
    """The two values by dotted key; NO_SUCH_KEY where one has none."""

    @property
    def is_same(self) -> bool:
        """True if both train the same."""
        return self.digests[0] == self.digests[1]


def list_experiments() -> list[ExperimentLine]:
    """The experiments that come with the package, by stage and name."""
    lines = [_line(name) for name in experiment_names()]
    return sorted(lines, key=lambda line: (line.stage, line.name))


def experiment_values(settings: BaseModel) -> list[ExperimentValue]:
    """Every key with its value, in the order of the code; of a choice, those of the one taken."""
    return list(_values(settings, "", said=True))


def differences(a: Experiment, b: Experiment) -> ExperimentDifferences:
    """The keys whose values differ, in the order of `a` and then of `b`."""
    values = [{one.key: one.value for one in experiment_values(each)} for each in (a, b)]
    pairs = {key: (_of(values[0], key), _of(values[1], key)) for key in values[0] | values[1]}
    found = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
    return ExperimentDifferences((a.digest, b.digest), found)


def _of(values: dict[str, Any], key: str) -> Any:
    return values.get(key, NO_SUCH_KEY)


def _line(name: str) -> ExperimentLine:
    experiment = load_experiment(name)
    text = (files("exo2ego") / "experiments" / f"{name}.toml").read_text(encoding="utf-8")
    about = text.splitlines()[0].lstrip("# ").rstrip()
    values = experiment_values(experiment)
    said = {one.key: one.value for one in values if not one.is_default and one.key != "stage"}
    return ExperimentLine(name, experiment.stage, experiment.digest, about, said)


def _values(settings: BaseModel, prefix: str, *, said: bool) -> Iterator[ExperimentValue]:
    """Keys of a part; `said` is False if the part as a whole is a default."""
    for name, field in type(settings).model_fields.items():
        value, here = getattr(settings, name), said and name in settings.model_fields_set
        if isinstance(value, BaseModel):
            yield from _values(value, f"{prefix}{name}.", said=here)
        else:
            about = field.description or ("which alternative is meant" if name == "name" else "")
            yield ExperimentValue(prefix + name, value, not here, about)
