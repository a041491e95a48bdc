"""The best checkpoint of a run: the one with the lowest held-out loss, which stays on disk.

RUN/best.json           its folder's name, step and held-out loss
"""

from pathlib import Path

import orjson

from exo2ego.training.checkpoint import checkpoint_folder, checkpoints
from exo2ego.training.held_out import HeldOutLoss, read_held_out
from stores.atomic import write_whole

BEST = "best.json"


def find_best(run: Path) -> HeldOutLoss | None:
    """The lowest held-out loss that a checkpoint on disk has; the earliest of equal ones.

    Only checkpoints count whose own step was measured.
    """
    saved = set(checkpoints(run))
    found = [
        line
        for line in read_held_out(run)
        if line.loss is not None and checkpoint_folder(run, line.step) in saved
    ]
    return min(found, key=lambda line: (line.loss, line.step), default=None)


def note_best(run: Path) -> Path | None:
    """Writes best.json; returns the folder of the best checkpoint, None if there is none."""
    best = find_best(run)
    if best is None:
        (run / BEST).unlink(missing_ok=True)
        return None
    folder = checkpoint_folder(run, best.step)
    about = {"checkpoint": folder.name, "step": best.step, "held_out_loss": best.loss}
    write_whole(run / BEST, orjson.dumps(about, option=orjson.OPT_INDENT_2))
    return folder
