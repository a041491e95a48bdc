"""What a dataset must give to be ingested: a list of its takes, and each take with its cameras."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64
from pydantic import BaseModel

from stores.recipe import ClipRecipe


@dataclass(frozen=True, eq=False)
class TakeCamera:
    """One camera of a take: its video, its lens as plain numbers, and where it stood."""

    cam_id: str
    video: str
    """Path below the root, with forward slashes; empty if only the camera is known."""
    lens: str
    params: tuple[float, ...]
    """In the order of the lens's kind, for frames of `hw`, pixel centres at +0.5."""
    hw: tuple[int, int]
    """Rows and columns of the video's frames before `quarter_turns_cw`."""
    quarter_turns_cw: int
    world_from_cam: Float64[np.ndarray, "n 4 4"]
    """n = 1 if fixed, else one a video frame, NaN where there is none."""


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
    ego: TakeCamera
    exos: tuple[TakeCamera, ...]
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
