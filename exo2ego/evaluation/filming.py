"""What a stage's way of making a clip's ego frames is given, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from exo2ego.model.flow import SamplerSettings
from exo2ego.model.vae import LatentCodec
from exo2ego.model.wan_memory import MemorySettings
from exo2ego.training.checkpoint import CheckpointState
from stores.reading import Store

Film = Callable[[str], UInt8[Tensor, "T H W 3"]]
"""Makes the ego frames of one clip, by its id."""


@dataclass(frozen=True, eq=False)
class Filming:
    """What all clips have in common."""

    store: Store
    checkpoint: Path
    state: CheckpointState
    codec: LatentCodec
    """The store's VAE."""
    clip_ids: list[str]
    wan_spec: str | None
    """None means what the run was given."""
    sampler: SamplerSettings
    memory: MemorySettings
    """How a generator's Wan is kept."""
    seed: int
    """Of the noise, with each clip's id."""
    device: str


@dataclass(frozen=True)
class Maker:
    """How the model of a stage makes ego frames."""

    open: Callable[[Filming], Film]
    """Loads the model. Raises a UserFault if something that it needs is not at hand."""
    solves: bool
    """Whether it starts from noise and takes solver steps, so that seed and sampler matter."""
    needs: tuple[str, ...] = ()
    """Arrays of the store that it reads and that training does not."""
