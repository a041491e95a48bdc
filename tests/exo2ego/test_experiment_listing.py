"""What the shipped experiments are, key by key, and where two differ."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from cli import app
from exo2ego.training.experiment_file import experiment_names, load_experiment
from exo2ego.training.experiment_keys import known_keys, leaves
from exo2ego.training.experiment_listing import (
    NO_SUCH_KEY,
    differences,
    experiment_values,
    list_experiments,
)


def plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def shown(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == code, result.output
    return orjson.loads(result.stdout)


@pytest.mark.parametrize("name", experiment_names())
def test_what_a_line_says_over_the_defaults_is_what_the_file_holds(name: str):
    (line,) = [line for line in list_experiments() if line.name == name]
    text = (files("exo2ego") / "experiments" / f"{name}.toml").read_text()
    held = dict(leaves(tomllib.loads(text)))
    assert {"stage": line.stage} | {key: plain(of) for key, of in line.said.items()} == held
    assert text.startswith(f"# {line.about}\n")
    assert line.digest == load_experiment(name).digest


@pytest.mark.parametrize("name", experiment_names())
def test_the_values_of_an_experiment_are_all_of_it(name: str):
    experiment = load_experiment(name)
    values = {one.key: plain(one.value) for one in experiment_values(experiment)}
    assert values == dict(leaves(experiment.model_dump(mode="json")))
    assert set(values) <= set(known_keys(type(experiment)))


def test_every_value_says_what_it_is():
    for name in experiment_names():
        silent = [one.key for one in experiment_values(load_experiment(name)) if not one.about]
        assert silent in ([], ["stage"]), name


def test_a_value_that_is_said_is_no_default_even_if_it_is_the_same():
    experiment = load_experiment("align", ["optimiser.steps=100_000"])
    said = {one.key for one in experiment_values(experiment) if not one.is_default}
    assert "optimiser.steps" in said
    assert "optimiser.lr" not in said


def test_differences_are_the_keys_that_were_overridden():
    plain_one = load_experiment("align")
    assert differences(plain_one, load_experiment("align", ["seed=0"])).is_same
    changed = load_experiment("align", ["optimiser.lr=2e-4", "align.width=32"])
    found = differences(plain_one, changed)
    assert found.differences == {"optimiser.lr": (1e-4, 2e-4), "align.width": (512, 32)}
    assert not found.is_same


def test_differences_of_two_stages_name_keys_that_one_of_them_lacks():
    found = differences(load_experiment("multiexocon"), load_experiment("poseinj")).differences
    assert found["lora.rank"] == (128, NO_SUCH_KEY)
    assert found["pose.name"] == (NO_SUCH_KEY, "concat")


def test_the_shell_lists_shows_and_compares(tmp_path: Path):
    listed = shown("experiments", "list")["experiments"]
    assert {line["name"] for line in listed} == set(experiment_names())
    own = tmp_path / "mine.toml"
    own.write_text(
        'stage = "align"\n[batch]\nglobal_batch = 2\nmicro_batch = 1\n'
        '[align]\nname = "st_transformer"\n'
    )
    values = shown("experiments", "show", str(own), "--set", "seed=3")["values"]
    assert {"key": "seed", "value": 3, "is_default": False} in [
        {key: value for key, value in one.items() if key != "about"} for one in values
    ]
    assert shown("experiments", "diff", "align", "align")["differences"] == {}
    differ = shown("experiments", "diff", "align", str(own), code=1)["differences"]
    assert differ == {"batch.global_batch": [128, 2], "batch.micro_batch": [128, 1]}


def test_a_key_that_there_is_not_is_answered_with_the_nearest_one():
    result = CliRunner().invoke(app, ["experiments", "show", "align", "--set", "optimizer.lr=1.0"])
    assert result.exit_code == 2
    assert "Use optimiser.lr" in result.output
