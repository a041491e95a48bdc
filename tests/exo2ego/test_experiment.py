"""Experiments: strict, with every number in one place, and faults that name the keys."""

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from pydantic import BaseModel

from exo2ego.training.experiment import EXPERIMENTS
from exo2ego.training.experiment_file import (
    ExperimentFault,
    experiment_names,
    load_experiment,
)
from exo2ego.training.experiment_keys import known_keys, leaves

STAGES = ("align", "multiexocon", "poseinj", "vawan")


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_has_a_default_experiment_with_the_papers_numbers(stage: str):
    experiment = load_experiment(stage)
    optimiser = experiment.optimiser
    assert experiment.stage == stage
    assert experiment.batch.global_batch == (128 if stage == "align" else 6)
    assert (optimiser.betas, optimiser.clip_norm) == ((0.9, 0.95), 1.0)
    assert (optimiser.warmup_steps, optimiser.steps) == (200, 100_000)
    assert experiment.precision == "bf16"


def default_of(kind: type[BaseModel], key: str) -> object:
    name, _, rest = key.partition(".")
    field = kind.model_fields[name]
    if rest and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return default_of(field.annotation, rest)
    return field.get_default()


@pytest.mark.parametrize("stage", experiment_names())
def test_no_file_repeats_a_default(stage: str):
    text = (files("exo2ego") / "experiments" / f"{stage}.toml").read_text()
    tree = tomllib.loads(text)
    for key, value in leaves(tree):
        if not key.endswith("name"):  # says which alternative is meant
            assert default_of(EXPERIMENTS[tree["stage"]], key) != value, key


@pytest.mark.parametrize("stage", STAGES)
def test_every_key_says_what_it_is(stage: str):
    def check(kind: type[BaseModel]) -> None:
        for name, field in kind.model_fields.items():
            assert field.description or name in {"stage", "name"}, f"{kind.__name__}.{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                check(field.annotation)

    check(EXPERIMENTS[stage])


def test_overrides_are_toml_values_and_bare_words():
    experiment = load_experiment(
        "align", ["optimiser.steps=50", "optimiser.betas=[0.8, 0.9]", "precision=fp32", "seed = 7"]
    )
    assert experiment.optimiser.steps == 50
    assert experiment.optimiser.betas == (0.8, 0.9)
    assert (experiment.precision, experiment.seed) == ("fp32", 7)


def test_an_unknown_key_is_answered_with_the_known_ones():
    with pytest.raises(ExperimentFault, match=r"Use optimiser\.steps") as fault:
        load_experiment("align", ["optimiser.stepz=50"])
    assert "optimiser.stepz" in str(fault.value.where)
    assert {"batch.global_batch", "align.width"} <= set(str(fault.value.expected).split(", "))


@pytest.mark.parametrize(
    "override",
    [
        "optimiser.steps",
        "=5",
        "optimiser.steps='50'",
        "optimiser.steps=",
        "optimiser.lr=-1.0",
        "seed.deep=1",
        "precision=fp8",
        "flow.shift=3.0",
        "optimiser.lr=nan",
        "batch.micro_batch=3",
        "optimiser.min_lr=0.1",
    ],
)
def test_what_does_not_fit_is_a_fault(override: str):
    with pytest.raises(ExperimentFault):
        load_experiment("align", [override])


def test_a_key_of_an_alternative_is_told_without_pydantics_name_for_it():
    with pytest.raises(ExperimentFault, match=r"Use align\.view_blocks") as fault:
        load_experiment("align-pixelnerf", ["align.view_block=1"])
    assert str(fault.value.where).endswith("key align.view_block")
    with pytest.raises(ExperimentFault, match=r"Mend align\.pose") as fault:
        load_experiment("align-cross-attention", ["align.pose=2"])


def test_a_key_of_another_alternative_is_answered_with_those_of_the_named_one():
    with pytest.raises(ExperimentFault, match=r"the unknown key align\.pose") as fault:
        load_experiment("align", ["align.pose=true"])
    keys = str(fault.value.expected).split(", ")
    assert "align.patch" in keys and "align.pose" not in keys and "align.view_blocks" not in keys
    with pytest.raises(ExperimentFault, match="optimiser"):
        load_experiment("align", ["optimiser.name=adam"])
    with pytest.raises(ExperimentFault, match="align"):
        load_experiment("align", ["align.name=pixelner"])


def test_an_alternative_without_a_name_is_asked_for_it(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('stage = "align"\n[batch]\nglobal_batch = 2\nmicro_batch = 1\n[align]\n')
    with pytest.raises(ExperimentFault, match="a name that says which alternative is meant"):
        load_experiment(str(path))


def test_a_batch_that_is_not_micro_times_accumulation_shows_the_arithmetic():
    with pytest.raises(ExperimentFault, match="6 is no multiple of 4"):
        load_experiment("poseinj", ["batch.micro_batch=4"])
    assert load_experiment("poseinj", ["batch.micro_batch=2"]).batch.accumulation == 3


def test_a_file_of_ones_own_is_read(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('stage = "align"\n[batch]\nglobal_batch = 2\nmicro_batch = 1\n')
    assert load_experiment(str(path)).batch.accumulation == 2


@pytest.mark.parametrize("text", [None, "stage = ", 'stage = "wan"', "", b"\xff"])
def test_a_file_that_is_no_experiment_is_a_fault(tmp_path: Path, text: str | bytes | None):
    path = tmp_path / "broken.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ExperimentFault, match="align"):
        load_experiment(str(path))


def test_the_digest_tells_experiments_apart_and_nothing_else():
    again = load_experiment("align", ["optimiser.steps=100_000"])
    assert load_experiment("align").digest == again.digest
    assert load_experiment("align", ["seed=1"]).digest != again.digest


def test_known_keys_are_dotted_to_the_leaves():
    keys = set(known_keys(EXPERIMENTS["poseinj"]))
    assert {"flow.shift", "pose.token_width", "condition.fill", "exo_dropout"} <= keys
    assert "flow" not in keys


@pytest.mark.parametrize("stage", STAGES)
def test_the_documentation_has_every_key(stage: str):
    text = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    assert [key for key in known_keys(EXPERIMENTS[stage]) if f"`{key}`" not in text] == []
