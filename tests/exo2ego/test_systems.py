"""The page of systems has every experiment, with the parameters that its model really has."""

from pathlib import Path

import pytest

from exo2ego.training.build import Origin, trained_parameters
from exo2ego.training.experiment_file import experiment_names, load_experiment
from exo2ego.training.stages import STAGES

PAGE = Path(__file__).parents[2] / "docs" / "systems.md"
SHIPPED = [name for name in experiment_names() if not name.startswith(("demo", "mini"))]


def told() -> dict[str, list[str]]:
    rows = [line.strip("| \n").split(" | ") for line in PAGE.read_text().splitlines()]
    return {row[0].strip("`"): row[1:] for row in rows if row[0].startswith("`") and len(row) == 5}


def test_every_experiment_has_a_row() -> None:
    assert sorted(told()) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_parameters_are_those_of_the_model(name: str) -> None:
    experiment = load_experiment(name)
    origin = Origin(experiment, None, None, "meta", blank=True)
    model = STAGES[experiment.stage].build(origin).model
    trained = trained_parameters(model).values()
    counts = [sum(p.numel() for p in some) for some in (model.parameters(), trained)]
    assert told()[name][1:3] == [f"{count:,}" for count in counts]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_files_that_it_names_are_there(name: str) -> None:
    root = PAGE.parents[1] / "exo2ego"
    for word in told()[name][3].replace(",", " ").split():
        if "/" in word:
            assert (root / word.strip("`")).is_file()
