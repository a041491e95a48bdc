"""What a run was trained on, in which order, on top of what; and whether its files agree."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from exo2ego.training.audit_checks import check_metrics, check_order, check_states, check_weights
from exo2ego.training.audit_report import Audit, CheckpointAudit, RunAudit
from exo2ego.training.checkpoint import (
    CHECKPOINTS,
    STATE,
    CheckpointState,
    checkpoints,
    find_checkpoint,
    read_state,
)
from exo2ego.training.experiment import Experiment
from exo2ego.training.experiment_file import experiment_names, load_experiment, parse_experiment
from exo2ego.training.experiment_listing import ExperimentDifferences, differences
from exo2ego.training.first_frames import FIRST_FRAMES
from exo2ego.training.history import read_starts
from exo2ego.training.lineage import lineage
from exo2ego.training.losses import read_metrics
from stores.errors import UserFault
from stores.progress import Track, silent
from stores.reading import Store

ALIGN = "align"
"""What the provenance of predicted first frames calls the digest of the weights that made them."""


@dataclass(eq=False)
class _Found:
    """What an audit gathers on its way."""

    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def audit(run: Path, store: Store | None = None, *, track: Track = silent) -> Audit:
    """What a run, or a checkpoint, says of how it came to be; every weights file is hashed.

    The chain is the run and the parents that it goes on from. With the store, it is also Align's
    checkpoint that predicted the first frames, if it lies beside these runs, and the order of clips
    is computed again. Raises CheckpointFault if there is no checkpoint.
    """
    found, newest = _Found(), find_checkpoint(run)
    own = [newest] if newest == run else checkpoints(run)
    parents = [[folder] for folder in _parents(newest, found)]
    chain = [*reversed(parents), own]
    if store:
        chain = [*([folder] for folder in _align(chain, store, found)), *chain]
    audits = [_run_audit(folders, store, found) for folders in chain]
    every = [folder for folders in chain for folder in folders]
    for folder in track(every, total=len(every), what="hash weights", unit="checkpoints"):
        found.problems += check_weights(folder)
    found.notes += _other_stores(audits)
    return Audit(audits, found.notes, found.problems)


def nearest_experiment(experiment: Experiment) -> tuple[str, ExperimentDifferences]:
    """The shipped experiment of the same stage that differs in the fewest keys, and these."""
    shipped = {name: load_experiment(name) for name in experiment_names()}
    found = {
        name: differences(one, experiment)
        for name, one in shipped.items()
        if one.stage == experiment.stage
    }
    return min(found.items(), key=lambda item: (len(item[1].differences), item[0]))


def run_of(checkpoint: Path) -> Path:
    """The run's folder of a checkpoint; one that was moved out of its run stands for itself."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == CHECKPOINTS else checkpoint.resolve()


def _parents(checkpoint: Path, found: _Found) -> Iterator[Path]:
    """The checkpoint that it goes on from, that one's, and so on; a missing one is a problem."""
    try:
        yield from islice(lineage(checkpoint), 1, None)
    except UserFault as fault:
        found.problems.append(_told(fault))


def _align(chain: list[list[Path]], store: Store, found: _Found) -> Iterator[Path]:
    """The checkpoint that predicted the first frames that the audited run was conditioned on."""
    digest = read_state(chain[-1][-1]).first_frames
    if digest is None:
        return
    try:
        predicted_by = store.derived(FIRST_FRAMES, digest).provenance.get(ALIGN)
    except UserFault as fault:
        found.problems.append(_told(fault))
        return
    if predicted_by is None:
        found.notes.append(f"first frames {digest[:12]} were not predicted by Align")
        return
    beside = sorted({run_of(folders[-1]).parent for folders in chain})
    states = [path for at in beside for path in sorted(at.glob(f"*/{CHECKPOINTS}/*/{STATE}"))]
    match = [path.parent for path in states if _digest_of(path.parent) == predicted_by]
    yield from match[:1]
    if not match:
        found.notes.append(
            f"first frames {digest[:12]} were predicted by Align's weights {predicted_by[:12]}, "
            f"of which no checkpoint lies in {', '.join(map(str, beside))}"
        )


def _digest_of(folder: Path) -> str | None:
    """Digest of a neighbour's weights; None if it cannot be read, which is no fault of this run."""
    try:
        return read_state(folder).weights_digest
    except UserFault:
        return None


def _run_audit(folders: list[Path], store: Store | None, found: _Found) -> RunAudit:
    """One run, by these of its checkpoints."""
    states = [read_state(folder) for folder in folders]
    run, newest = run_of(folders[-1]), states[-1]
    experiment = parse_experiment(newest.experiment, where=folders[-1])
    name, differ = nearest_experiment(experiment)
    steps = [line.step for line in read_metrics(run)]
    starts = read_starts(run)
    found.problems += check_states(run, states, experiment, starts)
    found.problems += check_metrics(run, steps, newest)
    if store:
        found.problems += check_order(run, newest, store, experiment, starts)
    if len({tuple(sorted(state.software.items())) for state in states}) > 1:
        found.notes.append(f"{run}: its checkpoints were written by different software")
    return RunAudit(
        run=run,
        stage=newest.stage,
        steps=newest.step,
        steps_wanted=experiment.optimiser.steps,
        experiment=name,
        differences=differ.differences,
        wan=f"{newest.wan.spec}, fingerprint {newest.wan.fingerprint[:12]}" if newest.wan else None,
        first_frames=newest.first_frames,
        began_with=newest.began_with,
        checkpoints=[_checkpoint(*pair) for pair in zip(folders, states, strict=True)],
        metrics=(steps[0], steps[-1]) if steps else None,
        starts=starts,
    )


def _checkpoint(folder: Path, state: CheckpointState) -> CheckpointAudit:
    return CheckpointAudit(
        folder=folder,
        step=state.step,
        store_hash=state.store_hash,
        experiment_digest=state.experiment_digest,
        order_digest=state.stream["order_digest"],
        weights_digest=state.weights_digest,
        software=state.software,
    )


def _other_stores(audits: list[RunAudit]) -> Iterator[str]:
    """Runs of a chain, and checkpoints and starts of a run, that saw another store."""
    last = audits[-1].checkpoints[-1].store_hash
    for run in audits:
        seen = [one.store_hash for one in (*run.starts, *run.checkpoints)]
        if others := sorted({store[:12] for store in seen if store != last}):
            yield f"{run.run}: also trained on another store than {last[:12]}: {', '.join(others)}"


def _told(fault: UserFault) -> str:
    return f"{fault.what} {fault.where}: expected {fault.expected}, got {fault.got}"
