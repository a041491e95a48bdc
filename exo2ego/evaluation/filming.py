"""What a way of making clips' ego frames is given, and what it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float, UInt8
from torch import Tensor

from exo2ego.evaluation.manifest import SamplesFault
from exo2ego.evaluation.scene import AS_STORED, Scene
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.vae import LatentCodec, frames_from_video
from exo2ego.model.wan_memory import MemorySettings
from exo2ego.training.checkpoint import CheckpointState
from stores.damage import name_some
from stores.reading import Store

Film = Callable[[Sequence[str]], UInt8[Tensor, "b T H W 3"]]
"""Makes the ego frames of some clips, by their ids."""


@dataclass(frozen=True, eq=False)
class Filming:
    """What all clips have in common."""

    store: Store
    checkpoint: Path
    state: CheckpointState
    codec: LatentCodec
    """The store's VAE."""
    clip_ids: list[str]
    wan_spec: str | None = None
    """None means what the run was given."""
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    memory: MemorySettings = field(default_factory=MemorySettings)
    """How a generator's Wan is kept."""
    seed: int = 0
    """Of the noise, with each clip's id."""
    scene: Scene = AS_STORED
    """What of a clip is shown."""
    align_run: Path | None = None
    """Makes a generator's first frames anew for this scene; None: as they are stored."""
    ema: bool = False
    """Whether the run's averaged weights are meant."""

    @property
    def device(self) -> str:
        """Where the model is to be."""
        return str(self.codec.device)


@dataclass(frozen=True)
class Maker:
    """How the model of a stage makes ego frames."""

    open: Callable[[Filming], Film]
    """Loads the model. Raises a UserFault if something that it needs is not at hand."""
    solves: bool
    """Whether it starts from noise and takes solver steps, so that seed and sampler matter."""
    needs: tuple[str, ...] = ()
    """Arrays of the store that it reads and that training does not."""


def shown_frames(
    video: Float[Tensor, "b 3 T H W"], clip_ids: Sequence[str]
) -> UInt8[Tensor, "b T H W 3"]:
    """Frames 0..255 of what a model made, in [-1, 1].

    Raises SamplesFault, naming the clips, for NaN: as levels it would be a black picture.
    """
    if bad := [clip_id for clip_id, one in zip(clip_ids, video, strict=True) if one.isnan().any()]:
        raise SamplesFault(
            "A model made no picture of these clips.",
            where=name_some(bad),
            expected="numbers in every pixel",
            got="NaN",
            fix="Look at the run's losses and sample an older checkpoint; or sample with less "
            "guidance, or with --weights full.",
        )
    return frames_from_video(video)
