"""Whether a run's files agree: each check gives a sentence for everything that does not."""

from collections.abc import Iterator
from pathlib import Path

from exo2ego.training.checkpoint import WEIGHTS, CheckpointState, file_digest, read_state
from exo2ego.training.experiment import Experiment
from exo2ego.training.history import Start
from exo2ego.training.losses import METRICS
from stores.reading import Store
from stores.stream import ClipStream


def check_weights(folder: Path) -> Iterator[str]:
    """The weights file's digest against the state's."""
    expected, path = read_state(folder).weights_digest, folder / WEIGHTS
    got = file_digest(path) if path.is_file() else "no file"
    if got != expected:
        yield f"{path}: expected digest {expected[:12]}, got {got[:12]}"


def check_states(
    run: Path, states: list[CheckpointState], experiment: Experiment, starts: list[Start]
) -> Iterator[str]:
    """The experiment's digest against its values, and what must stay the same in a run."""
    newest = states[-1]
    if experiment.digest != newest.experiment_digest:
        yield (
            f"{run}: the experiment's values have digest {experiment.digest[:12]}, but "
            f"{newest.experiment_digest[:12]} is written down: one of them was altered, or "
            "another version of exo2ego has other keys"
        )
    for state in states[:-1]:
        if state.experiment_digest != newest.experiment_digest:
            yield f"{run}: step {state.step} is of another experiment than step {newest.step}"
    for start in starts:
        if start.experiment_digest != newest.experiment_digest:
            yield f"{run}: it was started at step {start.step} with another experiment"


def check_metrics(run: Path, steps: list[int], newest: CheckpointState) -> Iterator[str]:
    """A line a step, from the first one up to the newest checkpoint at least."""
    if not (run / METRICS).is_file():
        return
    if steps != list(range(1, len(steps) + 1)):
        yield f"{run / METRICS}: steps are not 1, 2, 3 and so on"
    elif len(steps) < newest.step:
        yield f"{run / METRICS}: ends with step {len(steps)}, but a checkpoint is of {newest.step}"


def check_order(
    run: Path,
    newest: CheckpointState,
    store: Store,
    experiment: Experiment,
    starts: list[Start],
) -> Iterator[str]:
    """The order of clips, computed again, if the store is the only one that the run saw."""
    if {newest.store_hash, *(start.store_hash for start in starts)} != {store.hash}:
        return
    batch = experiment.batch.global_batch
    stream = ClipStream(store, (), batch_size=batch, seed=experiment.seed)
    got = stream.order_digest_after(newest.step)
    stream.close()
    if got != newest.stream["order_digest"]:
        yield (
            f"{run}: the order of clips of this store, seed and batch has digest {got[:12]}, but "
            f"{newest.stream['order_digest'][:12]} is written down"
        )
