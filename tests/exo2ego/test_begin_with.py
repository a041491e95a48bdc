"""Runs that begin with another run's weights: which, that nothing else is taken, and who tells."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from exo2ego.evaluation.origin import Origin
from exo2ego.evaluation.tables.published import System
from exo2ego.evaluation.tables.systems import deviations
from exo2ego.training.audit import audit
from exo2ego.training.checkpoint import (
    CheckpointFault,
    checkpoints,
    file_digest,
    find_checkpoint,
    read_state,
    read_weights,
)
from exo2ego.training.experiment import Experiment
from exo2ego.training.lineage import Trained
from exo2ego.training.losses import read_metrics
from exo2ego.training.trainer import train
from stores.reading import Store

STILL = ("optimiser.lr=1e-30", "optimiser.min_lr=0", "seed=7")
"""Steps so small that no float moves, from other fresh weights."""


@pytest.mark.parametrize("stage", ["align", "multiexocon", "poseinj", "vawan"])
def test_weights_that_do_not_move_are_those_of_the_other_run(
    framed_store: Store,
    runs: dict[str, Path],
    tiny_experiment: Callable[..., Experiment],
    tmp_path: Path,
    stage: str,
):
    first = find_checkpoint(runs[stage])
    parent = runs["multiexocon"] if stage == "poseinj" else None
    wan = None if stage == "align" else "tiny"
    experiment = tiny_experiment(stage, *STILL)
    for name, begin_with in (("fresh", None), ("begun", runs[stage])):
        train(
            stage, framed_store, tmp_path / name, experiment,
            wan_spec=wan, parent=parent, begin_with=begin_with,
        )  # fmt: skip
    before, fresh = read_weights(first), read_weights(find_checkpoint(tmp_path / "fresh"))
    begun = read_weights(find_checkpoint(tmp_path / "begun"))
    assert all(torch.equal(begun[name], before[name]) for name in before)
    assert any(not torch.equal(begun[name], fresh[name]) for name in before)
    state = read_state(find_checkpoint(tmp_path / "begun"))
    assert state.began_with == read_state(first).weights_digest
    assert read_state(find_checkpoint(tmp_path / "fresh")).began_with is None


def test_optimiser_and_order_are_fresh(
    framed_store: Store,
    runs: dict[str, Path],
    tiny_experiment: Callable[..., Experiment],
    tmp_path: Path,
):
    """Losses of step 0 on are those of the clips, noise and rates that a fresh run has."""
    begun, fresh = (tmp_path / name for name in ("begun", "fresh"))
    experiment = tiny_experiment("align")
    train("align", framed_store, begun, experiment, begin_with=runs["align"])
    train("align", framed_store, fresh, experiment)
    ours, theirs = read_metrics(begun), read_metrics(fresh)
    assert [line.lr for line in ours] == [line.lr for line in theirs]
    assert ours[0].loss != theirs[0].loss
    states = [read_state(find_checkpoint(run)) for run in (begun, fresh)]
    assert states[0].stream == states[1].stream


def test_it_goes_on_after_a_stop_without_being_told_again(
    framed_store: Store,
    runs: dict[str, Path],
    tiny_experiment: Callable[..., Experiment],
    tmp_path: Path,
):
    experiment = tiny_experiment("align", "checkpoint_every=1", "keep_checkpoints=9")
    for name in ("whole", "cut"):
        run = tmp_path / name
        train("align", framed_store, run, experiment, begin_with=runs["align"])
    for later in checkpoints(tmp_path / "cut")[1:]:
        later.rename(tmp_path / later.name)
    train("align", framed_store, tmp_path / "cut", experiment, resume=True)
    files = [find_checkpoint(tmp_path / name) / "weights.safetensors" for name in ("whole", "cut")]
    assert file_digest(files[0]) == file_digest(files[1])
    states = [read_state(file.parent).began_with for file in files]
    assert states[0] == states[1] is not None
    with pytest.raises(CheckpointFault, match="began_with"):
        other = tmp_path / "whole"
        train("align", framed_store, tmp_path / "cut", experiment, begin_with=other, resume=True)


def test_another_stage_or_another_model_is_refused(
    framed_store: Store,
    runs: dict[str, Path],
    tiny_experiment: Callable[..., Experiment],
    tmp_path: Path,
):
    with pytest.raises(CheckpointFault, match="its own stage"):
        experiment = tiny_experiment("align")
        train("align", framed_store, tmp_path / "a", experiment, begin_with=runs["vawan"])
    wider = tiny_experiment("multiexocon", "lora.rank=5")
    with pytest.raises(CheckpointFault, match="do not fit"):
        train(
            "multiexocon", framed_store, tmp_path / "b", wider,
            wan_spec="tiny", begin_with=runs["multiexocon"],
        )  # fmt: skip
    more = tiny_experiment("multiexocon", "exo.positions.name=learned")
    with pytest.raises(CheckpointFault, match="trains something else"):
        train(
            "multiexocon", framed_store, tmp_path / "c", more,
            wan_spec="tiny", begin_with=runs["multiexocon"],
        )  # fmt: skip


def test_audits_and_tables_tell_of_it(
    framed_store: Store,
    runs: dict[str, Path],
    tiny_experiment: Callable[..., Experiment],
    tmp_path: Path,
):
    run = tmp_path / "run"
    train("align", framed_store, run, tiny_experiment("align"), begin_with=runs["align"])
    digest = read_state(find_checkpoint(runs["align"])).weights_digest
    assert f"weights {digest[:12]}" in str(audit(run))
    origin = Origin(run=Trained.of(find_checkpoint(run)), parents=(), align=None, wan=None)
    told = deviations(origin, System(experiment="align"))
    assert any(f"began with weights {digest[:12]}" in words for words in told)
