"""Where a run comes from: its parent, its store, and whether a checkpoint is of the same run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from exo2ego.training.checkpoint import (
    STATE,
    CheckpointFault,
    CheckpointState,
    find_checkpoint,
    read_state,
)
from exo2ego.training.experiment_file import settings_of
from stores.reading import Store


@dataclass(frozen=True)
class Source:
    """What a run is made from, as far as the caller says."""

    store: Store
    wan_spec: str | None
    parent: Path | None
    first_frames: str | None
    begin_with: Path | None = None
    """A run of the same stage, or one of its checkpoints, whose weights it begins with."""

    def completed(self, folder: Path | None, before: CheckpointState | None) -> "Source":
        """With what is not said taken from the run's checkpoint, then from the parent's."""
        found = self
        if folder and before:
            found = replace(
                found,
                wan_spec=found.wan_spec or (before.wan.spec if before.wan else None),
                parent=found.parent or parent_folder(folder, before),
                first_frames=found.first_frames or before.first_frames,
            )
        if found.parent is None:
            return found
        state = read_state(find_checkpoint(found.parent))
        return replace(
            found,
            wan_spec=found.wan_spec or (state.wan.spec if state.wan else None),
            first_frames=found.first_frames or state.first_frames,
        )


class Trained(BaseModel):
    """What a checkpoint is, as results that were made with it remember it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: dict[str, Any] = Field(description="the whole experiment, defaults included")
    step: int = Field(description="steps done when its weights were taken")
    store_hash: str = Field(description="the store that it was trained on")
    began_with: str | None = Field(
        default=None, description="digest of the trained weights it began with; none: fresh ones"
    )

    @classmethod
    def of(cls, checkpoint: Path) -> "Trained":
        """What the checkpoint in a folder says of itself."""
        state = read_state(checkpoint)
        return cls(
            experiment=state.experiment,
            step=state.step,
            store_hash=state.store_hash,
            began_with=state.began_with,
        )


def lineage(checkpoint: Path) -> Iterator[Path]:
    """The checkpoint, the one that it started from, and so on; CheckpointFault if one lacks."""
    folder: Path | None = checkpoint
    while folder:
        yield folder
        folder = parent_folder(folder, read_state(folder))


def parent_folder(folder: Path, state: CheckpointState) -> Path | None:
    """The checkpoint that the one in `folder` started from; CheckpointFault if it is not there."""
    if state.parent is None:
        return None
    found = (folder.resolve() / state.parent.path).resolve()
    digest = read_state(found).weights_digest if (found / STATE).is_file() else "no checkpoint"
    if digest == state.parent.weights_digest:
        return found
    raise CheckpointFault(
        "The checkpoint that this one started from is not where it was.",
        where=f"{folder}, parent {found}",
        expected=f"weights {state.parent.weights_digest[:12]}",
        got=digest[:13],
        fix="Move both runs together, and keep the parent's checkpoint.",
    )


def check_same_store(
    folder: Path, found: CheckpointState, store_hash: str, allow_other_store: bool
) -> None:
    """Raises CheckpointFault if the checkpoint was trained on another store, unless allowed."""
    if found.store_hash == store_hash or allow_other_store:
        return
    raise CheckpointFault(
        "This checkpoint was trained on another store.",
        where=folder,
        expected=f"store {found.store_hash[:12]}",
        got=f"store {store_hash[:12]}",
        fix=f"Open the store as STORE@{found.store_hash[:12]}, or pass --allow-other-store.",
    )


def check_same_run(
    folder: Path, found: CheckpointState, now: CheckpointState, *, allow_other_store: bool
) -> None:
    """Raises CheckpointFault unless the checkpoint `found` is of the run that `now` begins."""
    check_same_store(folder, found, now.store_hash, allow_other_store)
    expected, got = _facts(folder, found), _facts(folder, now)
    if allow_other_store:  # its predictions of first frames are others, too
        del expected["first_frames"], got["first_frames"]
    wrong = [key for key in expected | got if expected.get(key) != got.get(key)]
    if wrong:
        raise CheckpointFault(
            "This run cannot be resumed: it was started otherwise.",
            where=f"{folder}, {', '.join(wrong)}",
            expected=", ".join(f"{key} = {expected.get(key)}" for key in wrong),
            got=", ".join(f"{key} = {got.get(key)}" for key in wrong),
            fix="Say what was said when it was started, or start another run in another --out.",
        )


def _facts(folder: Path, state: CheckpointState) -> dict[str, Any]:
    """What must not change in a run, by dotted name."""
    facts: dict[str, Any] = {"stage": state.stage, "first_frames": state.first_frames}
    facts["parent"] = state.parent.weights_digest[:12] if state.parent else None
    facts["wan"] = state.wan.fingerprint[:12] if state.wan else None
    facts["began_with"] = state.began_with
    return facts | settings_of(state.experiment, where=folder)
