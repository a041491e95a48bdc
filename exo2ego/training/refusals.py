"""What a run refuses before its first step."""

from pathlib import Path

from exo2ego.training.checkpoint import checkpoints
from exo2ego.training.experiment import Experiment
from exo2ego.training.losses import METRICS
from exo2ego.training.nan_guard import TrainingFault
from stores.stream import ClipStream


def check_stage(stage: str, experiment: Experiment) -> None:
    """Raises TrainingFault if the experiment is of another stage."""
    if stage != experiment.stage:
        raise TrainingFault(
            "The experiment is of another stage.",
            where=f"train {stage}",
            expected=f"an experiment of stage {stage}",
            got=f"one of stage {experiment.stage}",
            fix=f"Use `train {experiment.stage}`, or another experiment.",
        )


def check_folder(out: Path, *, resume: bool) -> None:
    """Raises TrainingFault if a run would be overwritten."""
    if not resume and (out / METRICS).exists():
        raise TrainingFault(
            "There is a run in this folder already.",
            where=out,
            expected="a new or empty folder",
            got=f"{METRICS} and {len(checkpoints(out))} checkpoints",
            fix="Pass --resume to go on with it, or another --out.",
        )


def check_clips(stream: ClipStream) -> None:
    """Raises TrainingFault for fewer clips than a batch: the same one would come twice in it.

    Twice in a step it has the same noise, and teaches nothing more.
    """
    clips, batch = len(stream.clip_ids), stream.global_batch
    if clips < batch:
        raise TrainingFault(
            "There are fewer clips than a batch takes.",
            where=f"{stream.store.path}@{stream.store.hash[:12]}, split train",
            expected=f"{batch} clips or more (batch.global_batch)",
            got=clips,
            fix=f"Encode more takes, or pass --set batch.global_batch={clips} with a "
            "batch.micro_batch that divides it.",
        )
