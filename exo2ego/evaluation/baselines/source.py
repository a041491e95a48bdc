"""What every baseline is given, and what it gives: made of the store alone, nothing is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exo2ego.evaluation.filming import Film
from exo2ego.model.vae import LatentCodec
from stores.errors import UserFault
from stores.progress import Track
from stores.reading import Store


class BaselineFault(UserFault, ValueError):
    """A baseline for which the store lacks something."""


@dataclass(frozen=True, eq=False)
class BaselineSource:
    """What all clips of a baseline have in common."""

    store: Store
    codec: LatentCodec
    """The store's VAE."""
    clip_ids: list[str]
    """All clips of the set, also those that are not to be made now."""
    out: Path
    track: Track


@dataclass(frozen=True, eq=False)
class Baseline:
    """A baseline that is ready to make videos."""

    about: dict[str, Any]
    """What decides its videos, for the manifest."""
    open: Callable[[], Film]
    note: Callable[[str], str | None] = lambda _: None
    """What the manifest says of one clip."""
    first_frames: str | None = None
    """Digest of the first frames that it shows."""
