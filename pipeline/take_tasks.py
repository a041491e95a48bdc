"""What a reader of takes is given: one take, and what is asked of it."""

from dataclasses import dataclass

from pipeline.dataset import TakeEntry
from stores.index import ClipRow


@dataclass(frozen=True)
class Task:
    """One take to read."""

    entry: TakeEntry
    published: tuple[ClipRow, ...] | None = None
    """Only these clips, and only if they are the same here; None are all that the take gives."""
    compares_poses: bool = False
    """Whether its two sources of poses are compared too, which costs more than all the rest."""
