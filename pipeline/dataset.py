"""What a dataset must give to be ingested: a list of its takes, and each take with its cameras."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import BaseModel

from stores.index import CameraRow
from stores.recipe import ClipRecipe


@dataclass(frozen=True, eq=False)
class Take:
    """One usable take: synchronised videos with cameras."""

    take_name: str
    take_uid: str
    capture_name: str
    participant_uid: str
    category: str
    split: str
    fps: float
    frame_count: int
    ego: CameraRow
    """With a pose for every video frame, NaN where there is none."""
    exos: tuple[CameraRow, ...]
    """The chosen views that are there, the reference first: the recipe's `views` at most."""
    task_frames: tuple[int, int] | None
    """First frame of the task and one past its last; None if nothing says so."""


@dataclass(frozen=True)
class TakeEntry:
    """One take as its dataset lists it."""

    take_name: str
    take_uid: str
    category: str
    split: str
    """train, val or test; empty if it has none."""
    record: BaseModel | None
    """What the dataset itself knows; None if the entry is malformed."""
    fault: tuple[str, str] | None
    """Reason and detail if the take cannot be used whatever lies on disk."""
    kinds: frozenset[str] = field(default=frozenset())
    """Other names that its category goes by: ids and names of its task and parent task."""

    def is_of(self, category: str) -> bool:
        """True if the category is the take's, or another name of it."""
        return category == self.category or category in self.kinds


@runtime_checkable
class Dataset(Protocol):
    """A folder of recordings. `ingest` takes any object that has these four.

    It must be small and go through pickle: every reader gets one."""

    @property
    def root(self) -> Path:
        """The folder that videos' paths are below."""
        ...

    def takes(self) -> list[TakeEntry]:
        """Every take by name, usable or not."""
        ...

    def load(self, entry: TakeEntry, recipe: ClipRecipe) -> Take:
        """The take with its cameras. Raises TakeRejected with the reason if it cannot be used."""
        ...

    def inputs(self, entry: TakeEntry) -> Iterable[Path]:
        """Every file that `load` may read for the take; whether it is there does not matter."""
        ...
