"""Ego videos of an evaluation set from a trained model, with a manifest of how each was made.

OUT/manifest.json              what decides them all, and what each clip has (manifest.py)
OUT/<clip>.safetensors and so on                                       (sample_files.py)
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from exo2ego.evaluation.clip_choice import ClipChoice, chosen_clips
from exo2ego.evaluation.film_generator import generated, noise_seed
from exo2ego.evaluation.filming import Film, Filming, Maker
from exo2ego.evaluation.manifest import (
    MANIFEST,
    SampledClip,
    SampleSettings,
    check_settings,
    read_manifest,
    start_manifest,
    write_part,
)
from exo2ego.evaluation.origin import origin_of
from exo2ego.evaluation.per_frame_align import per_frame_align
from exo2ego.evaluation.sample_files import write_frames, write_pictures
from exo2ego.evaluation.scene import AS_STORED, Scene
from exo2ego.evaluation.shards import ALL, Shard
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.vae import LatentCodec
from exo2ego.model.wan_memory import MemorySettings
from exo2ego.training.checkpoint import find_checkpoint, read_state, weights_file
from exo2ego.training.first_frames import store_codec
from exo2ego.training.lineage import check_same_store
from stores.progress import Track, silent
from stores.reading import Store

MAKERS = {"align": Maker(per_frame_align, solves=False, needs=("exo_frames",))}
"""How the stages that are no generators make a clip's ego frames."""
GENERATOR = Maker(generated, solves=True)
"""How every other stage does."""


@dataclass(frozen=True)
class SampleReport:
    """What a call of `sample` did."""

    out: Path
    clips: int
    """Clips that have a video now, by whichever process."""
    clips_new: int
    seconds: float


@dataclass(frozen=True)
class SamplePlan:
    """What a call of `sample` would do, as one clip (or batch) showed it."""

    clips: int
    clips_done: int
    device: str
    tried: str
    """The clip that was made for it, and not written."""
    seconds_a_clip: float
    gpu_hours: float
    """Of the clips that are left, on this device; loading the model is not counted."""


@dataclass(frozen=True, eq=False)
class Samples:
    """A folder of samples that is to be filled: who makes it, of which clips, and its settings."""

    out: Path
    store: Store
    codec: LatentCodec
    settings: SampleSettings
    wanted: list[str]
    open: Callable[[], Film]
    """Loads what makes the frames."""
    scene: Scene = AS_STORED
    batch: int = 1
    """Clips that are made together."""
    shard: Shard = ALL
    note: Callable[[str], str | None] = field(default=lambda _: None)
    """What the manifest says of one clip."""

    @property
    def share(self) -> list[str]:
        """The clips of this process."""
        return self.shard.share(self.wanted)

    def fill(self, track: Track) -> SampleReport:
        """Makes the clips that are not there yet; each is kept as soon as it is done."""
        began = time.perf_counter()
        manifest, done = start_manifest(self.out, self.settings, self.shard)
        left = [clip for clip in self.share if clip not in done]
        tracked = track(left, total=len(left), what="sample", unit="clips")
        made = 0  # fewer than are left if the track ends early
        for clips in self._film(tracked, len(left)):
            manifest, made = manifest.with_clips(clips), made + len(clips)
            write_part(self.out, manifest, self.shard)
        return SampleReport(self.out, len(done) + made, made, time.perf_counter() - began)

    def plan(self) -> SamplePlan:
        """What `fill` would do: one batch is made and thrown away."""
        done: set[str] = set()
        if (self.out / MANIFEST).exists():
            found = read_manifest(self.out)
            check_settings(self.out, found.settings, self.settings)
            done = set(found.clips)
        left = [clip for clip in self.share if clip not in done]
        tried = (left or self.wanted)[: self.batch]
        film = self.open()
        began = time.perf_counter()
        film(tried).cpu()
        seconds = (time.perf_counter() - began) / len(tried)
        counts = (len(self.share), len(self.share) - len(left))
        device = str(self.codec.device)
        return SamplePlan(*counts, device, tried[0], seconds, seconds * len(left) / 3600)

    def _film(self, left: Iterator[str], count: int) -> Iterator[dict[str, SampledClip]]:
        """Films and writes the clips, batch by batch."""
        if not count:
            return
        film, pending = self.open(), []
        for number, clip_id in enumerate(left, start=1):
            pending.append(clip_id)
            if len(pending) == self.batch or number == count:
                yield self._written(pending, film)
                pending = []

    def _written(self, clip_ids: list[str], film: Film) -> dict[str, SampledClip]:
        began = time.perf_counter()
        videos = film(clip_ids).cpu()
        seconds, made = (time.perf_counter() - began) / len(clip_ids), {}
        for clip_id, frames in zip(clip_ids, videos, strict=True):
            name = write_frames(self.out, clip_id, frames)
            seed = self.settings.seed
            made[clip_id] = SampledClip(
                noise_seed=None if seed is None else noise_seed(seed, clip_id),
                frames=name,
                pictures=write_pictures(
                    self.out, self.store, self.codec, clip_id, frames, self.scene
                ),
                seconds=seconds,
                batch=len(clip_ids),
                note=self.note(clip_id),
            )
        return made


def sample(
    store: Store, run: Path, out: Path, *, track: Track = silent, **told: Any
) -> SampleReport:
    """Samples clips of a store into `out`; `told` is what else `open_samples` takes."""
    return open_samples(store, run, out, **told).fill(track)


def open_samples(
    store: Store,
    run: Path,
    out: Path,
    *,
    vae_spec: str,
    wan_spec: str | None = None,
    clips: ClipChoice = ClipChoice(),  # noqa: B008 (frozen)
    scene: Scene = AS_STORED,
    align_run: Path | None = None,
    sampler: SamplerSettings | None = None,
    seed: int = 0,
    memory: MemorySettings | None = None,
    ema: bool = False,
    batch: int = 1,
    shard: Shard = ALL,
    allow_other_store: bool = False,
    device: str = "cpu",
) -> Samples:
    """The samples that a run would make, to be filled or planned; nothing is written yet.

    `run` is a run of any stage, or a checkpoint of one; `wan_spec` None means what the run was
    given. An align run predicts every frame by itself, and has neither `sampler` nor `seed`. A
    clip's noise depends on seed and clip id alone; `batch` clips are solved together, which may
    change the last bits. `align_run` makes first frames anew for the scene; `ema` takes the run's
    averaged weights. Raises CheckpointFault for an align run of another store unless allowed, and
    for a run without averages; SceneFault for views that are not there.
    """
    checkpoint, wanted = find_checkpoint(run), chosen_clips(store, clips)
    state, maker = read_state(checkpoint), _maker(checkpoint)
    if not maker.solves:
        check_same_store(checkpoint, state, store.hash, allow_other_store)
    scene.check(store, wanted)
    filming = Filming(
        store,
        checkpoint,
        state,
        store_codec(store, vae_spec, device),
        wanted,
        wan_spec,
        sampler or SamplerSettings(),
        memory or MemorySettings(),
        seed,
        scene,
        align_run if maker.solves else None,
        ema,
    )
    return Samples(
        out,
        store,
        filming.codec,
        _settings(filming, maker, clips),
        wanted,
        lambda: maker.open(filming),
        scene,
        batch,
        shard,
    )


def _maker(checkpoint: Path) -> Maker:
    return MAKERS.get(read_state(checkpoint).stage, GENERATOR)


def _settings(filming: Filming, maker: Maker, clips: ClipChoice) -> SampleSettings:
    """What the manifest says of a run's samples."""
    state, scene, align = filming.state, filming.scene, filming.align_run
    return SampleSettings(
        store_hash=filming.store.hash,
        stage=state.stage,
        step=state.step,
        weights_digest=weights_file(filming.checkpoint, state, ema=filming.ema)[1],
        first_frames=state.first_frames,
        evaluation_set=clips.set_meant,
        split=clips.split,
        sampler=filming.sampler if maker.solves else None,
        seed=filming.seed if maker.solves else None,
        weights=filming.memory.base if maker.solves else None,
        views=scene.views,
        camera=scene.path,
        first_frames_by=read_state(find_checkpoint(align)).weights_digest if align else None,
        origin=origin_of(filming.store, filming.checkpoint, align),
        device=torch.device(filming.device).type,
    )
