"""Who made a folder of samples: the experiment of the run, of its parents, and of its Align.

What the paper's tables need to know of a score: which of their rows it belongs to.
"""

from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict, Field

from exo2ego.training.checkpoint import CheckpointState, WanOrigin, find_checkpoint, read_state
from exo2ego.training.experiment import DiffusionExperiment
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.first_frames import open_first_frames
from exo2ego.training.lineage import Trained, lineage
from stores.reading import Store


class Origin(BaseModel):
    """All that was trained for some samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Trained = Field(description="the run that was sampled")
    parents: tuple[Trained, ...] = Field(description="what it started from, nearest first")
    align: Trained | None = Field(
        description="the Align that predicted the first frames; none: another source, or "
        "first frames that were made before this was kept"
    )
    wan: WanOrigin | None = Field(description="the pretrained transformer; none for align")


def origin_of(store: Store, checkpoint: Path, align_run: Path | None) -> Origin:
    """Who makes the samples of a checkpoint; `align_run` makes first frames anew, if it is given.

    Raises CheckpointFault or StoreFault for what is not there.
    """
    run, *parents = [Trained.of(folder) for folder in lineage(checkpoint)]
    state = read_state(checkpoint)
    align = Trained.of(find_checkpoint(align_run)) if align_run else _align(store, state)
    return Origin(run=run, parents=tuple(parents), align=align, wan=state.wan)


def _align(store: Store, state: CheckpointState) -> Trained | None:
    """Align as the first frames remember it that the generator was trained with."""
    if state.first_frames is None:
        return None
    experiment = parse_experiment(state.experiment, where=f"step {state.step} of {state.stage}")
    condition = cast(DiffusionExperiment, experiment).condition
    kept = open_first_frames(store, state.first_frames, condition).provenance
    return Trained.model_validate(kept["trained"]) if "trained" in kept else None
