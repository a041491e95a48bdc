"""Baselines that any honest table needs: the registry, and the samples that each would make.

Align on every frame by itself is one, too: `sample` of an align run (per_frame_align.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import blake3
import orjson
import torch
from pydantic import Field, TypeAdapter, ValidationError

from exo2ego.evaluation.baselines.exo_view import ExoView, open_exo_view
from exo2ego.evaluation.baselines.foundation import Foundation, open_foundation
from exo2ego.evaluation.baselines.frozen_first import FrozenFirst, open_frozen_first
from exo2ego.evaluation.baselines.mean_frame import MeanFrame, open_mean_frame
from exo2ego.evaluation.baselines.source import Baseline, BaselineFault, BaselineSource
from exo2ego.evaluation.clip_choice import ClipChoice, chosen_clips
from exo2ego.evaluation.manifest import SampleSettings
from exo2ego.evaluation.sample import Samples
from exo2ego.evaluation.shards import ALL, Shard
from exo2ego.training.first_frames import store_codec
from stores.progress import Track, silent
from stores.reading import Store

Settings = MeanFrame | ExoView | FrozenFirst | Foundation
BaselineSettings = Annotated[Settings, Field(discriminator="name")]
"""Settings of any baseline; `name` says which."""
BASELINES: Mapping[type, Callable[[Any, BaselineSource], Baseline]] = {
    MeanFrame: open_mean_frame,
    ExoView: open_exo_view,
    FrozenFirst: open_frozen_first,
    Foundation: open_foundation,
}
"""By the class of its settings."""


def baseline_settings(name: str, **told: object) -> Settings:
    """The settings of that name with what is told; None tells nothing. Raises BaselineFault."""
    given = {key: value for key, value in told.items() if value is not None}
    try:
        return TypeAdapter(BaselineSettings).validate_python({"name": name, **given})
    except ValidationError as wrong:
        raise BaselineFault(
            "There is no such baseline.",
            where="--method and its options",
            expected="mean-frame; exo-view with --view; frozen-first with --first-frames; "
            "foundation with --wan, --first-frames, --steps, --shift and --seed",
            got=f"{name} with {given}: {wrong.errors()[0]['msg']}",
            fix="`exo2ego baseline --help` says which option belongs to which.",
        ) from wrong


def open_baseline(
    store: Store,
    settings: Settings,
    out: Path,
    *,
    vae_spec: str,
    clips: ClipChoice = ClipChoice(),  # noqa: B008 (frozen)
    shard: Shard = ALL,
    device: str = "cpu",
    track: Track = silent,
) -> Samples:
    """The samples of a baseline, to be filled like a run's and scored like them.

    Raises what the baseline lacks as a fault of the store, or as BaselineFault.
    """
    codec = store_codec(store, vae_spec, device)
    whole = chosen_clips(store, replace(clips, clip_ids=(), limit=None))
    made = BASELINES[type(settings)](settings, BaselineSource(store, codec, whole, out, track))
    about = orjson.dumps([made.about, made.first_frames], option=orjson.OPT_SORT_KEYS)
    manifest = SampleSettings(
        store_hash=store.hash,
        stage=settings.name,
        step=0,
        weights_digest=blake3.blake3(about).hexdigest(),
        first_frames=made.first_frames,
        evaluation_set=clips.set_meant,
        split=clips.split,
        sampler=None,
        seed=None,
        weights=None,
        baseline=made.about,
        device=torch.device(device).type,
    )
    wanted = chosen_clips(store, clips)
    return Samples(out, store, codec, manifest, wanted, made.open, shard=shard, note=made.note)
