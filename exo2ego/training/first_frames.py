"""First frames of every clip, cached beside the store as Wan's condition: made and opened."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import blake3
import orjson
from einops import rearrange

from exo2ego.model.condition import AlignFrame, ConditionSettings, ExoFrame, FirstFrameFill
from exo2ego.model.vae import LatentCodec, load_codec
from exo2ego.training.first_frame_sources import FirstFrame, FrameMaker
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
    """Names the source (with Align's weights), the fill and the VAE; a generator remembers it."""
    clips: int
    """Clips that have first frames now."""
    clips_new: int
    clips_without: int
    """Clips for which the source has no frame: no ego video, or not that exo view."""
    seconds: float


def encode_first_frames(
    store: Store,
    maker: FrameMaker,
    *,
    vae_spec: str,
    fill: FirstFrameFill = "decode",
    device: str = "cpu",
    track: Track = silent,
) -> FirstFramesReport:
    """Writes first frames and the conditions made of them, for every clip that has one.

    Clips that have them already are left alone, so an interrupted call goes on. `maker` is one of
    `first_frame_sources`. Raises CheckpointFault for an Align run of another stage or store,
    StoreFault for another VAE than the store's.
    """
    began, condition = time.perf_counter(), ConditionSettings(source=maker.source, fill=fill)
    codec = store_codec(store, vae_spec, device)
    made_by = _made_by(store, maker, fill)
    digest = frames_digest(store, maker, fill)
    done, wanted = finished_derived(store, FIRST_FRAMES, digest), maker.clips(store)
    left = [clip_id for clip_id in wanted if clip_id not in done]
    clips = track(left, total=len(left), what="first frames", unit="clips")
    rows = _rows(clips, maker.begin(store, codec, condition))
    trained = maker.trained()  # not in the digest, which older first frames have, too
    provenance = made_by | _told(condition) | {"store": store.hash}
    provenance |= {"trained": trained.model_dump(mode="json")} if trained else {}
    path = write_derived(store, FIRST_FRAMES, digest, rows, provenance)
    counts = (len(done) + len(left), len(left), len(store.clip_ids) - len(wanted))
    return FirstFramesReport(path, digest, *counts, time.perf_counter() - began)


def frames_digest(store: Store, maker: FrameMaker, fill: FirstFrameFill = "decode") -> str:
    """Names first frames by all that decides them, made or not. Raises CheckpointFault."""
    made_by = _made_by(store, maker, fill)
    return blake3.blake3(orjson.dumps(made_by, option=orjson.OPT_SORT_KEYS)).hexdigest()


def open_first_frames(store: Store, digest: str | None, condition: ConditionSettings) -> Derived:
    """The store's first frames of this source and fill; `digest` (its beginning) if several.

    Raises StoreFault, with the command that makes them, if there are none.
    """
    command = f"exo2ego encode-first-frames --store {store.path} {_options(condition)}"
    try:
        return store.derived(FIRST_FRAMES, digest, _told(condition))
    except StoreFault as missing:
        raise StoreFault(
            "The generator is conditioned on first frames, but they are not at hand.",
            where=missing.where,
            expected=f"exactly one folder {FIRST_FRAMES}-{digest or ''} with condition.source = "
            f"{condition.source.name}, condition.fill = {condition.fill}",
            got=missing.got,
            fix=f"Make them with `{command}`, choose one with --first-frames DIGEST, or train "
            "with another condition (--set condition.source.name=...).",
        ) from missing


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


def _made_by(store: Store, maker: FrameMaker, fill: FirstFrameFill) -> dict[str, Any]:
    """The source, the fill, and the VAE, which is the store's."""
    return maker.made_by(store) | {"fill": fill, "vae": store.recipe.vae.model_dump()}


def _told(condition: ConditionSettings) -> dict[str, object]:
    """What the provenance says of a condition."""
    return {"source": condition.source.model_dump(), "fill": condition.fill}


def _options(condition: ConditionSettings) -> str:
    """The options of the command that makes such first frames."""
    source, fill = condition.source, f"--fill {condition.fill}"
    if isinstance(source, AlignFrame):
        return f"--align RUN {fill}"
    view = f" --view {source.view}" if isinstance(source, ExoFrame) else ""
    return f"--from {source.name}{view} {fill}"


def _rows(clip_ids: Iterator[str], frame: FirstFrame) -> Iterator[DerivedRow]:
    """Each clip's first latent and condition, as they are stored."""
    for clip_id in clip_ids:
        latent, condition = frame(clip_id)
        video = rearrange(condition, "1 c t h w -> t c h w")
        yield (
            clip_id,
            {
                "first_latent": latent[0].half().cpu().numpy(),
                "condition": video.half().contiguous().cpu().numpy(),
            },
        )
