"""Where first frames come from: EgoExo-Align, the truth, an exo view, or nowhere.

Each source says which clips it has a first latent for, what it is (for the digest), and gives it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from exo2ego.model.align import align_given, align_reads
from exo2ego.model.condition import (
    AlignFrame,
    ConditionSettings,
    ExoFrame,
    FirstFrameSource,
    NoFrame,
    TrueFrame,
    condition_latents,
    grey_latents,
)
from exo2ego.model.vae import LatentCodec
from exo2ego.training.checkpoint import (
    CheckpointFault,
    CheckpointState,
    find_checkpoint,
    read_state,
)
from exo2ego.training.experiment import AlignExperiment
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.lineage import Trained, check_same_store
from exo2ego.training.stages import arithmetic, load_model
from stores.errors import UserFault
from stores.reading import Store

FirstFrame = Callable[[str], tuple[Float[Tensor, "1 c h w"], Float[Tensor, "1 c t h w"]]]
"""A clip's first latent, and the condition that is made of it."""


class FirstFrameFault(UserFault, ValueError):
    """First frames that are asked for without what they come from."""


@runtime_checkable
class FrameMaker(Protocol):
    """Makes first frames of one source."""

    @property
    def source(self) -> FirstFrameSource:
        """What the experiment's condition calls it."""
        ...

    def clips(self, store: Store) -> list[str]:
        """Ids of the clips for which there is such a frame."""
        ...

    def made_by(self, store: Store) -> dict[str, Any]:
        """What decides the frames, beside the VAE and the fill. Raises CheckpointFault."""
        ...

    def trained(self) -> Trained | None:
        """The model that predicts them, for the provenance; None without one."""
        ...

    def begin(self, store: Store, codec: LatentCodec, condition: ConditionSettings) -> FirstFrame:
        """What gives a clip's frame."""
        ...


@dataclass(frozen=True)
class Predicted:
    """EgoExo-Align's predictions, by a run of stage align or one of its checkpoints."""

    align_run: Path
    allow_other_store: bool = False
    source: AlignFrame = field(default_factory=AlignFrame)

    def clips(self, store: Store) -> list[str]:
        """All clips."""
        return store.clip_ids

    def made_by(self, store: Store) -> dict[str, Any]:
        """Align's weights. Raises CheckpointFault for another stage, or another store's run."""
        checkpoint = find_checkpoint(self.align_run)
        state = _align_state(checkpoint)
        check_same_store(checkpoint, state, store.hash, self.allow_other_store)
        return {"align": state.weights_digest}

    def trained(self) -> Trained:
        """Align's run."""
        return Trained.of(find_checkpoint(self.align_run))

    def begin(self, store: Store, codec: LatentCodec, condition: ConditionSettings) -> FirstFrame:
        """Predictions clip by clip: no bit depends on a batch."""
        checkpoint, device = find_checkpoint(self.align_run), str(codec.device)
        model = load_model(checkpoint, wan_spec=None, device=device)
        about = parse_experiment(read_state(checkpoint).experiment, where=checkpoint)
        experiment = cast(AlignExperiment, about)
        return _continued(
            store,
            codec,
            condition,
            lambda clip_id: predict_first_latent(store, [clip_id], model, experiment, device),
        )


@dataclass(frozen=True)
class Truth:
    """The true first ego frames, of the clips whose ego camera was filmed."""

    source: TrueFrame = field(default_factory=TrueFrame)

    def clips(self, store: Store) -> list[str]:
        """Those with an ego video."""
        return [row.clip_id for row in store.rows if row.ego.video]

    def made_by(self, store: Store) -> dict[str, Any]:
        """The store's own latents."""
        return {"source": self.source.model_dump()}

    def trained(self) -> None:
        """Nothing is."""

    def begin(self, store: Store, codec: LatentCodec, condition: ConditionSettings) -> FirstFrame:
        """Latent frame 0 of the ego videos."""

        def latent(clip_id: str) -> Tensor:
            return torch.from_numpy(store.read("ego_latents", [clip_id], first_frame=True)).float()

        return _continued(store, codec, condition, latent)


@dataclass(frozen=True)
class OfExoView:
    """The first frames of one exo view, of the clips that have it."""

    source: ExoFrame = field(default_factory=ExoFrame)

    def clips(self, store: Store) -> list[str]:
        """Those with that view."""
        counts = store.view_counts(store.clip_ids)
        pairs = zip(store.clip_ids, counts, strict=True)
        return [clip_id for clip_id, views in pairs if views > self.source.view]

    def made_by(self, store: Store) -> dict[str, Any]:
        """The store's own latents."""
        return {"source": self.source.model_dump()}

    def trained(self) -> None:
        """Nothing is."""

    def begin(self, store: Store, codec: LatentCodec, condition: ConditionSettings) -> FirstFrame:
        """Latent frame 0 of the view."""

        def latent(clip_id: str) -> Tensor:
            views = torch.from_numpy(store.read("exo_latents", [clip_id], first_frame=True))
            return views[:, self.source.view].float()

        return _continued(store, codec, condition, latent)


@dataclass(frozen=True)
class Unknown:
    """A grey video for every clip, whatever the fill."""

    source: NoFrame = field(default_factory=NoFrame)

    def clips(self, store: Store) -> list[str]:
        """All clips."""
        return store.clip_ids

    def made_by(self, store: Store) -> dict[str, Any]:
        """Nothing of the store."""
        return {"source": self.source.model_dump()}

    def trained(self) -> None:
        """Nothing is."""

    def begin(self, store: Store, codec: LatentCodec, condition: ConditionSettings) -> FirstFrame:
        """The same latents for all."""
        clips = store.recipe.clips
        grey = grey_latents(codec, clips.frames, clips.hw)
        return lambda _: (grey[:, :, 0], grey)


def frame_source(name: str, view: int) -> FirstFrameSource:
    """The source of that name; `view` is an exo view's number."""
    more = {"view": view} if name == "exo" else {}
    return ConditionSettings.model_validate({"source": {"name": name, **more}}).source


def frame_maker(
    source: FirstFrameSource, align_run: Path | None, *, allow_other_store: bool = False
) -> FrameMaker:
    """What makes frames of this source. Raises FirstFrameFault if Align's run is missing, or
    given where it is not asked."""
    if isinstance(source, AlignFrame) == (align_run is None):
        raise FirstFrameFault(
            "First frames come from one source.",
            where="--from, --align",
            expected="--align RUN with --from align, and only with it",
            got=f"--from {source.name} and " + (f"--align {align_run}" if align_run else "no run"),
            fix="Give the run of stage align, or another source without it.",
        )
    if align_run is not None:
        return Predicted(align_run, allow_other_store)
    return _WITHOUT_RUN[type(source)](source)


_WITHOUT_RUN: dict[type, Callable[[Any], FrameMaker]] = {
    TrueFrame: Truth,
    ExoFrame: OfExoView,
    NoFrame: Unknown,
}


@torch.no_grad()
def predict_first_latent(
    store: Store,
    clip_ids: Sequence[str],
    model: nn.Module,
    experiment: AlignExperiment,
    device: str,
) -> Float[Tensor, "b c h w"]:
    """Align's prediction of the clips' first ego latents, float32."""
    views = torch.from_numpy(store.read("exo_latents", clip_ids, first_frame=True)).to(device)
    arrays = {
        name: torch.from_numpy(store.read(name, clip_ids)).to(device)
        for name in align_reads(experiment.align)
    }
    with arithmetic(experiment.precision, device):
        return model(align_given(experiment.align, views, arrays)).latent.float()


def _continued(
    store: Store,
    codec: LatentCodec,
    condition: ConditionSettings,
    latent: Callable[[str], Float[Tensor, "1 c h w"]],
) -> FirstFrame:
    """Each clip's latent, and a video that begins with it."""
    frames = store.recipe.clips.frames

    def frame(clip_id: str) -> tuple[Tensor, Tensor]:
        first = latent(clip_id)
        return first, condition_latents(codec, first, frames, condition.fill)

    return frame


def _align_state(checkpoint: Path) -> CheckpointState:
    """The checkpoint's state. Raises CheckpointFault unless it is of stage align."""
    state = read_state(checkpoint)
    if state.stage == "align":
        return state
    raise CheckpointFault(
        "First frames are predicted by EgoExo-Align.",
        where=checkpoint,
        expected="a checkpoint of stage align",
        got=f"one of stage {state.stage}",
        fix="Give the --out folder of `exo2ego train --stage align`.",
    )
