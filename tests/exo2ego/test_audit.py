"""Audits: the chain of a run as it was trained, and a sentence for every file that disagrees."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from cli import app
from exo2ego.training.audit import audit, nearest_experiment
from exo2ego.training.checkpoint import STATE, WEIGHTS, CheckpointFault, checkpoints, read_state
from exo2ego.training.experiment import Experiment
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.history import HISTORY, read_starts
from exo2ego.training.losses import METRICS
from exo2ego.training.trainer import train
from stores.progress import Item
from stores.reading import Store
from stores.stream import ClipStream
from stores.zarr_store import open_store

MakeExperiment = Callable[..., Experiment]


class PowerCut(RuntimeError):
    """What ends a run without asking it."""


def cut_before_step_3(
    items: Iterable[Item], /, *, total: int, what: str, unit: str
) -> Iterator[Item]:
    for item in items:
        if item == 3:
            raise PowerCut
        yield item


@pytest.fixture
def chain(runs: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """A copy of the runs of all stages, side by side, of which a test may break what it likes."""
    copies = {}
    for stage, run in runs.items():
        copies[stage] = Path(shutil.copytree(run, tmp_path / stage))
    return copies


def change_state(run: Path, **changes: Any) -> None:
    """Alters the newest checkpoint's state; keys of the experiment with two underscores."""
    path = checkpoints(run)[-1] / STATE
    state = orjson.loads(path.read_bytes())
    for key, value in changes.items():
        inner, _, last = key.rpartition("__")
        (state[inner] if inner else state)[last] = value
    path.write_bytes(orjson.dumps(state))


def test_the_chain_is_told_in_the_order_in_which_it_was_trained(
    chain: dict[str, Path], framed_store: Store
):
    found = audit(chain["poseinj"], framed_store)
    assert [run.stage for run in found.runs] == ["align", "multiexocon", "poseinj"]
    assert [run.run for run in found.runs] == [chain[run.stage] for run in found.runs]
    assert (found.notes, found.problems) == ([], [])
    for run in found.runs:
        newest = read_state(checkpoints(run.run)[-1])
        assert (run.steps, run.steps_wanted, run.metrics) == (4, 4, (1, 4))
        assert run.checkpoints[-1].store_hash == framed_store.hash
        assert run.checkpoints[-1].weights_digest == newest.weights_digest
        assert run.checkpoints[-1].software == newest.software
        assert run.first_frames == newest.first_frames
        (start,) = run.starts
        assert (start.step, start.store_hash) == (0, framed_store.hash)


def test_without_the_store_the_chain_ends_where_no_path_leads_on(chain: dict[str, Path]):
    found = audit(chain["poseinj"])
    assert [run.stage for run in found.runs] == ["multiexocon", "poseinj"]
    assert found.problems == []


def test_an_align_that_is_not_beside_the_run_is_noted(chain: dict[str, Path], framed_store: Store):
    shutil.rmtree(chain["align"])
    found = audit(chain["multiexocon"], framed_store)
    assert [run.stage for run in found.runs] == ["multiexocon"]
    (note,) = found.notes
    assert "predicted by Align's weights" in note
    assert found.problems == []


def test_a_checkpoint_alone_is_audited_by_itself(chain: dict[str, Path]):
    first = checkpoints(chain["multiexocon"])[0]
    (run,) = audit(first).runs
    assert (run.steps, [one.folder for one in run.checkpoints]) == (2, [first])


def test_a_resumption_is_told_with_its_step(
    store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    run = tmp_path / "run"
    with pytest.raises(PowerCut):
        train("align", store, run, tiny_experiment("align"), track=cut_before_step_3)
    train("align", store, run, tiny_experiment("align"), resume=True)
    train("align", store, run, tiny_experiment("align"), resume=True)  # nothing is left to do
    found = audit(run, store)
    assert [start.step for start in found.runs[0].starts] == [0, 2]
    assert found.problems == []
    text = str(found)
    assert "from the beginning on cpu" in text
    assert "resumed at step 2 on cpu" in text


def test_another_store_is_noted_and_its_order_not_judged(
    store: Store,
    chain: dict[str, Path],
    make_store: Callable[..., Path],
    clip_rows: list,
    tiny_experiment: MakeExperiment,
):
    other, run = open_store(make_store(clip_rows, seed=77)), chain["align"]
    shutil.rmtree(checkpoints(run)[-1])
    train("align", other, run, tiny_experiment("align"), resume=True, allow_other_store=True)
    found = audit(run, other)
    (note,) = found.notes
    assert store.hash[:12] in note
    assert found.problems == []


def test_checkpoints_of_different_software_are_noted(chain: dict[str, Path]):
    change_state(chain["align"], software__torch="2.7.0")
    found = audit(chain["align"])
    assert ["different software" in note for note in found.notes] == [True]
    assert found.problems == []


def test_what_differs_from_the_shipped_experiment_is_told(chain: dict[str, Path]):
    (run,) = audit(chain["align"]).runs
    changed = {key: ours for key, (_, ours) in run.differences.items()}
    assert changed["optimiser.steps"] == 4
    assert changed["align.width"] == 32
    assert load_experiment(run.experiment).stage == "align"
    name, found = nearest_experiment(load_experiment("multiexocon", ["seed=3"]))
    assert (name, found.differences) == ("multiexocon", {"seed": (0, 3)})


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def drop_metrics(run: Path, keep: slice) -> None:
    lines = (run / METRICS).read_bytes().splitlines(keepends=True)
    (run / METRICS).write_bytes(b"".join(lines[keep]))


BREAKS: dict[str, tuple[Callable[[dict[str, Path]], object], str]] = {
    "weights": (lambda at: flip_last_byte(checkpoints(at["poseinj"])[-1] / WEIGHTS), "digest"),
    "older weights": (lambda at: flip_last_byte(checkpoints(at["poseinj"])[0] / WEIGHTS), "digest"),
    "no weights": (lambda at: (checkpoints(at["poseinj"])[-1] / WEIGHTS).unlink(), "no file"),
    "parent's weights": (
        lambda at: flip_last_byte(checkpoints(at["multiexocon"])[-1] / WEIGHTS),
        "digest",
    ),
    "no parent": (lambda at: shutil.rmtree(at["multiexocon"]), "not where it was"),
    "experiment": (
        lambda at: change_state(at["poseinj"], experiment__seed=5),
        "the experiment's values have digest",
    ),
    "order": (
        lambda at: change_state(at["poseinj"], stream__order_digest="ab" * 32),
        "the order of clips",
    ),
    "metrics cut": (lambda at: drop_metrics(at["poseinj"], slice(0, 2)), "ends with step 2"),
    "metrics with a hole": (
        lambda at: drop_metrics(at["poseinj"], slice(1, None)),
        "steps are not 1, 2, 3",
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_does_not_agree_is_a_problem(what: str, chain: dict[str, Path], framed_store: Store):
    break_it, told = BREAKS[what]
    break_it(chain)
    problems = audit(chain["poseinj"], framed_store).problems
    assert problems
    assert any(told in problem for problem in problems), problems


def test_a_start_with_another_experiment_is_a_problem(chain: dict[str, Path]):
    run = chain["align"]
    other = replace(read_starts(run)[0], experiment_digest="cd" * 32)
    with (run / HISTORY).open("ab") as file:
        file.write(orjson.dumps(other, option=orjson.OPT_APPEND_NEWLINE))
    assert ["another experiment" in problem for problem in audit(run).problems] == [True]


def test_a_run_without_history_says_that_its_starts_are_not_known(chain: dict[str, Path]):
    (chain["align"] / HISTORY).unlink()
    found = audit(chain["align"])
    assert found.problems == []
    assert "not noted" in str(found)


def test_no_checkpoint_is_a_fault(tmp_path: Path):
    with pytest.raises(CheckpointFault, match="no checkpoint here"):
        audit(tmp_path)


def test_the_order_of_a_stream_is_known_without_reading(store: Store):
    stream = ClipStream(store, ("align_rays",), batch_size=2, seed=3)
    for _ in range(5):
        next(stream)
    stream.close()
    assert ClipStream(store, (), batch_size=2, seed=3).order_digest_after(5) == stream.order_digest


def test_the_shell_tells_the_chain_and_fails_for_problems(
    chain: dict[str, Path], framed_store: Store
):
    words = ["audit", str(chain["poseinj"]), "--store", str(framed_store.path)]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    told = orjson.loads(done.stdout)
    assert [run["stage"] for run in told["runs"]] == ["align", "multiexocon", "poseinj"]
    done = CliRunner().invoke(app, words)
    assert "Everything agrees." in done.stdout
    assert "started      " in done.stdout
    flip_last_byte(checkpoints(chain["poseinj"])[-1] / WEIGHTS)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "PROBLEM" in done.stdout
