"""The image condition of clips that are sampled: as stored, or Align's for another scene."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from exo2ego.evaluation.filming import Filming
from exo2ego.evaluation.scene import SceneFault
from exo2ego.model.align import align_given, align_reads
from exo2ego.model.condition import (
    AlignFrame,
    ConditionSettings,
    ExoFrame,
    NoFrame,
    condition_latents,
)
from exo2ego.training.checkpoint import (
    CheckpointFault,
    CheckpointState,
    find_checkpoint,
    read_state,
)
from exo2ego.training.experiment import AlignExperiment, DiffusionExperiment
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.first_frames import open_first_frames
from exo2ego.training.stages import arithmetic, load_model
from stores.derived import Derived

Conditions = Callable[[Sequence[str]], Float[Tensor, "b c t h w"]]
"""Latents that some clips' videos begin with, by their ids."""


def open_conditions(filming: Filming, experiment: DiffusionExperiment) -> Conditions:
    """The first frames that the generator was trained with, or such made for another scene.

    Raises StoreFault if they are not at hand, CheckpointFault for another Align than theirs,
    SceneFault for a scene of which they would show something else.
    """
    digest = first_frames_digest(filming.checkpoint, filming.state)
    stored = open_first_frames(filming.store, digest, experiment.condition)
    if filming.align_run is not None:
        return _made(filming, stored, experiment.condition, filming.align_run)
    if filming.scene.path and not isinstance(experiment.condition.source, ExoFrame | NoFrame):
        raise _another_camera(filming, experiment.condition)
    stored.check_fresh(filming.clip_ids)

    def conditions(clip_ids: Sequence[str]) -> Float[Tensor, "b c t h w"]:
        return _as_taken(torch.from_numpy(stored.read("condition", clip_ids)))

    return conditions


def first_frames_digest(checkpoint: Path, state: CheckpointState) -> str:
    """Digest of the first frames that a generator was trained with. Raises CheckpointFault."""
    if state.first_frames:
        return state.first_frames
    raise CheckpointFault(
        "This generator's checkpoint does not name the first frames that it was given.",
        where=f"{checkpoint}, first_frames",
        expected="a digest",
        got="nothing",
        fix="Go back to an older checkpoint of the run, or train it again.",
    )


def _made(
    filming: Filming, stored: Derived, settings: ConditionSettings, align_run: Path
) -> Conditions:
    """Align's predictions for the scene, rounded to what a store keeps of its own."""
    checkpoint = find_checkpoint(align_run)
    state = read_state(checkpoint)
    if stored.provenance.get("align") != state.weights_digest:
        raise _another_align(checkpoint, state, stored)
    model = load_model(checkpoint, wan_spec=None, device=filming.device)
    experiment = cast(AlignExperiment, parse_experiment(state.experiment, where=checkpoint))
    frames = filming.store.recipe.clips.frames

    def condition(clip_id: str) -> Float[Tensor, "1 c t h w"]:
        first = _predicted(filming, model, experiment, clip_id)
        return condition_latents(filming.codec, first, frames, settings.fill).half().cpu()

    return lambda clip_ids: torch.cat([condition(clip_id) for clip_id in clip_ids])


@torch.no_grad()
def _predicted(
    filming: Filming, model: nn.Module, experiment: AlignExperiment, clip_id: str
) -> Float[Tensor, "1 c h w"]:
    """Align's first latent of one clip, of the views and the camera of the scene."""
    scene, store = filming.scene, filming.store
    arrays = {
        name: scene.masked(scene.camera_array(store, name, [clip_id])).to(filming.device)
        for name in align_reads(experiment.align)
    }
    views = scene.first_latents(store, [clip_id]).to(filming.device)
    with arithmetic(experiment.precision, filming.device):
        return model(align_given(experiment.align, views, arrays)).latent.float()


def _as_taken(stored: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b c t h w"]:
    return rearrange(stored, "b t c h w -> b c t h w")


def _another_align(checkpoint: Path, state: CheckpointState, stored: Derived) -> CheckpointFault:
    expected = stored.provenance.get("align")
    return CheckpointFault(
        "The generator's first frames are not those of this EgoExo-Align.",
        where=f"{checkpoint}, --align",
        expected=f"weights {expected[:12]}" if expected else "no Align: they come from elsewhere",
        got=f"stage {state.stage}, weights {state.weights_digest[:12]}",
        fix="Give the run that `exo2ego encode-first-frames --align` was given.",
    )


def _another_camera(filming: Filming, settings: ConditionSettings) -> SceneFault:
    by_align = isinstance(settings.source, AlignFrame)
    return SceneFault(
        "The stored first frames are seen from the clips' own ego cameras.",
        where=f"{filming.checkpoint}, condition.source = {settings.source.name}",
        expected="--align RUN with --camera" if by_align else "first frames of no ego camera",
        got="a new path of the ego camera, and no first frame that it sees",
        fix="Pass --align RUN, the run of stage align whose predictions the generator was given."
        if by_align
        else "Sample a run that was trained with first frames of EgoExo-Align.",
    )
