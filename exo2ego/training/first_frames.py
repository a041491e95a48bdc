"""EgoExo-Align's predictions for every clip, cached beside the store as Wan's condition."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import blake3
import orjson
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from exo2ego.model.align import align_given, align_reads
from exo2ego.model.condition import ConditionSettings, FirstFrameFill, condition_latents
from exo2ego.model.vae import LatentCodec, load_codec
from exo2ego.training.checkpoint import (
    CheckpointFault,
    CheckpointState,
    find_checkpoint,
    read_state,
)
from exo2ego.training.experiment import AlignExperiment, parse_experiment
from exo2ego.training.lineage import check_same_store
from exo2ego.training.stages import arithmetic, load_model
from stores.derived import Derived, DerivedRow, finished_derived, write_derived
from stores.errors import StoreFault
from stores.place import Place
from stores.progress import Track, silent
from stores.reading import Store

FIRST_FRAMES = "first_frames"
"""Name of the derived arrays."""


@dataclass(frozen=True)
class FirstFramesReport:
    """What a call of `encode_first_frames` did."""

    path: Place
    digest: str
    """Names Align's weights, the fill and the VAE; a generator remembers it."""
    clips: int
    """Clips that have predictions now."""
    clips_new: int
    seconds: float


def encode_first_frames(
    store: Store,
    align_run: Path,
    *,
    vae_spec: str,
    fill: FirstFrameFill = "decode",
    allow_other_store: bool = False,
    device: str = "cpu",
    track: Track = silent,
) -> FirstFramesReport:
    """Writes Align's detached prediction and the condition made of it, for every clip.

    Clips that have them already are left alone, so an interrupted call goes on. `align_run` is a
    run of stage align or one of its checkpoints. Raises CheckpointFault for another stage or
    store, StoreFault for another VAE than the store's.
    """
    began = time.perf_counter()
    checkpoint = find_checkpoint(align_run)
    state = _align_state(checkpoint)
    check_same_store(checkpoint, state, store.hash, allow_other_store)
    codec = store_codec(store, vae_spec, device)
    made_by = {"align": state.weights_digest, "fill": fill, "vae": codec.recipe()}
    digest = blake3.blake3(orjson.dumps(made_by, option=orjson.OPT_SORT_KEYS)).hexdigest()
    done = finished_derived(store, FIRST_FRAMES, digest)
    left = [clip_id for clip_id in store.clip_ids if clip_id not in done]
    model = load_model(checkpoint, wan_spec=None, device=device)
    experiment = cast(AlignExperiment, parse_experiment(state.experiment, where=checkpoint))
    clips = track(left, total=len(left), what="first frames", unit="clips")
    rows = _rows(store, clips, model, codec, experiment, fill)
    provenance = made_by | {"align_experiment": state.experiment_digest, "store": store.hash}
    path = write_derived(store, FIRST_FRAMES, digest, rows, provenance)
    seconds = time.perf_counter() - began
    return FirstFramesReport(path, digest, len(done) + len(left), len(left), seconds)


def open_first_frames(store: Store, digest: str | None, condition: ConditionSettings) -> Derived:
    """The store's predictions of first frames; `digest` (its beginning) if there are several.

    Raises StoreFault, with the command that makes them, if there are none of this fill.
    """
    command = f"exo2ego encode-first-frames --store {store.path} --align RUN"
    command += f" --fill {condition.fill}"
    try:
        found = store.derived(FIRST_FRAMES, digest)
    except StoreFault as missing:
        raise StoreFault(
            "The generator is conditioned on Align's first frames, but they are not at hand.",
            where=missing.where,
            expected=f"{FIRST_FRAMES}-{digest or ''}: exactly one folder",
            got=missing.got,
            fix=f"Make them with `{command}`, or choose one with --first-frames DIGEST.",
        ) from missing
    if (fill := found.provenance["fill"]) != condition.fill:
        raise StoreFault(
            "These first frames were continued in another way than the experiment wants.",
            where=found.path,
            expected=f"condition.fill = {condition.fill}",
            got=fill,
            fix=f"Make others with `{command}`, or pass --set condition.fill={fill}.",
        )
    return found


def store_codec(store: Store, vae_spec: str, device: str) -> LatentCodec:
    """The VAE that the store was encoded with. Raises StoreFault if `vae_spec` is another."""
    codec = load_codec(vae_spec, device=device)
    expected, got = store.recipe.vae.model_dump(), codec.recipe()
    if expected == got:
        return codec
    raise StoreFault(
        "This VAE is not the one that the store was encoded with.",
        where=f"{store.path}, --vae {vae_spec}",
        expected=", ".join(f"{key} {value[:12]}" for key, value in expected.items()),
        got=", ".join(f"{key} {value[:12]}" for key, value in got.items()),
        fix="Give the --vae that `exo2ego encode-latents` was given.",
    )


def _rows(
    store: Store,
    clip_ids: Iterator[str],
    model: nn.Module,
    codec: LatentCodec,
    experiment: AlignExperiment,
    fill: FirstFrameFill,
) -> Iterator[DerivedRow]:
    """Each clip's prediction and condition. One at a time: no bit depends on a batch."""
    frames = store.recipe.clips.frames
    for clip_id in clip_ids:
        latent = predict_first_latent(store, [clip_id], model, experiment, str(codec.device))
        condition = condition_latents(codec, latent, frames, fill)
        video = rearrange(condition, "1 c t h w -> t c h w")
        yield (
            clip_id,
            {
                "first_latent": latent[0].half().cpu().numpy(),
                "condition": video.half().contiguous().cpu().numpy(),
            },
        )


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
