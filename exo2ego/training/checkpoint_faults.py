"""What can go wrong with a run's checkpoints: no room to write one, damage when it is read."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from exo2ego.training.checkpoint import (
    CHECKPOINTS,
    CheckpointFault,
    checkpoints,
    read_optimiser,
    read_state,
    read_weights,
)
from stores.atomic import disk_faults
from stores.errors import StoreFault


@contextmanager
def room_for_checkpoint(run: Path) -> Iterator[None]:
    """Turns what the disk refuses into a StoreFault that names the last good checkpoint.

    Half a checkpoint is removed, so that its room is free again.
    """
    try:
        with disk_faults(run):
            yield
    except (StoreFault, SafetensorError) as refused:
        for partial in (run / CHECKPOINTS).glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        raise _no_room(run, refused) from refused


def newest_whole(run: Path) -> Path | None:
    """The newest checkpoint of a run, all its files checked; None if there is none yet.

    Raises CheckpointFault, with the way to the newest older one that is whole, if it is damaged:
    going back is for a person to decide.
    """
    folders = checkpoints(run)
    if not folders:
        return None
    if damage := _damage(folders[-1]):
        raise CheckpointFault(
            "The newest checkpoint of this run is damaged.",
            where=damage.where,
            expected=damage.expected,
            got=damage.got,
            fix=_way_on(folders),
        ) from damage
    return folders[-1]


def _damage(folder: Path) -> CheckpointFault | None:
    try:
        read_weights(folder)
        read_optimiser(folder)
        if read_state(folder).ema_digest:
            read_weights(folder, ema=True)
    except CheckpointFault as damage:
        return damage
    return None


def _way_on(folders: list[Path]) -> str:
    """What to do about the damage of the last one of these."""
    whole = next((folder for folder in reversed(folders[:-1]) if not _damage(folder)), None)
    if whole is None:
        return "No checkpoint of the run is whole: start again with another --out."
    return (
        f"Move {folders[-1]} away and pass --resume: the run then goes on from {whole.name}, "
        "which is whole."
    )


def _no_room(run: Path, refused: Exception) -> StoreFault:
    newest, kept = checkpoints(run), "there is no checkpoint yet"
    if newest:
        kept = f"{newest[-1].name} is whole, and --resume goes on from it"
    return StoreFault(
        "A checkpoint could not be written.",
        where=run / CHECKPOINTS,
        expected="a folder that can be written, with room for one more checkpoint than are kept",
        got=refused.got if isinstance(refused, StoreFault) else refused,
        fix=f"Make room, or lower keep_checkpoints in the next run; {kept}.",
    )
