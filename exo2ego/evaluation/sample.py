"""Ego videos of an evaluation set from a trained model, with a manifest of how each was made.

OUT/manifest.json              Manifest: store, checkpoint, settings, and what each clip has
OUT/<clip>.safetensors         `frames` uint8 "T H W 3", lossless: what is evaluated
OUT/<clip>.ego.mp4  OUT/<clip>.side-by-side.mp4  OUT/<clip>.strip.png   to look at
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import blake3
import torch
from einops import rearrange
from jaxtyping import UInt8
from safetensors.torch import save
from torch import Tensor, nn

from exo2ego.evaluation.filming import Film, Filming, Maker
from exo2ego.evaluation.manifest import (
    SampledClip,
    SampleSettings,
    start_manifest,
    write_manifest,
)
from exo2ego.evaluation.per_frame_align import per_frame_align
from exo2ego.evaluation.picture import Panel, side_by_side, write_strip, write_video
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.sampling import VideoGenerator
from exo2ego.model.sampling import sample as solve
from exo2ego.model.vae import frames_from_video
from exo2ego.model.wan_memory import MemorySettings, spare_memory
from exo2ego.training.checkpoint import (
    CheckpointFault,
    CheckpointState,
    find_checkpoint,
    read_state,
)
from exo2ego.training.experiment import DiffusionExperiment
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.first_frames import FIRST_FRAMES, open_first_frames, store_codec
from exo2ego.training.stages import STAGES, given_of, load_model
from stores.atomic import write_whole
from stores.errors import StoreFault
from stores.progress import Track, silent
from stores.reading import Store
from stores.stream import ClipStream
from stores.version import ABSENT_ROW


@dataclass(frozen=True)
class SampleReport:
    """What a call of `sample` did."""

    out: Path
    clips: int
    """Clips that have a video now."""
    clips_new: int
    seconds: float


def sample(
    store: Store,
    run: Path,
    out: Path,
    *,
    vae_spec: str,
    wan_spec: str | None = None,
    evaluation_set: str = "test-1",
    sampler: SamplerSettings | None = None,
    limit: int | None = None,
    clip_ids: Sequence[str] | None = None,
    seed: int = 0,
    memory: MemorySettings | None = None,
    device: str = "cpu",
    track: Track = silent,
) -> SampleReport:
    """Samples the first `limit` clips of an evaluation set into `out`; finished ones are kept.

    With `clip_ids` it samples these, and `evaluation_set` is but what they are called.
    `run` is a run of any stage, or a checkpoint of one; `wan_spec` None means what the run was
    given. An align run predicts every frame by itself, and has neither `sampler` nor `seed`. A
    clip's noise depends on seed and clip id alone, and clips are sampled one by one, so no video
    depends on the others. Raises SamplesFault if `out` was made otherwise.
    """
    began = time.perf_counter()
    checkpoint, sampler = find_checkpoint(run), sampler or SamplerSettings()
    memory = memory or MemorySettings()
    state = read_state(checkpoint)
    maker = MAKERS.get(state.stage, GENERATOR)
    settings = SampleSettings(
        store_hash=store.hash,
        stage=state.stage,
        step=state.step,
        weights_digest=state.weights_digest,
        first_frames=state.first_frames,
        evaluation_set=evaluation_set,
        sampler=sampler if maker.solves else None,
        seed=seed if maker.solves else None,
        weights=memory.base if maker.solves else None,
        device=torch.device(device).type,
    )
    manifest = start_manifest(out, settings)
    wanted = list(clip_ids or _clips_of(store, evaluation_set))[:limit]
    left = [clip for clip in wanted if clip not in manifest.clips]
    codec = store_codec(store, vae_spec, device)
    filming = Filming(
        store, checkpoint, state, codec, wanted, wan_spec, sampler, memory, seed, device
    )
    film = maker.open(filming)
    for clip_id in track(left, total=len(left), what="sample", unit="clips"):
        clips = manifest.clips | {clip_id: _sample_clip(filming, maker, film, out, clip_id)}
        manifest = manifest.model_copy(update={"clips": clips})
        write_manifest(out, manifest)
    return SampleReport(out, len(manifest.clips), len(left), time.perf_counter() - began)


def noise_seed(seed: int, clip_id: str) -> int:
    """Seed of one clip's noise."""
    digest = blake3.blake3(f"sample/{seed}/{clip_id}".encode()).digest(length=8)
    return int.from_bytes(digest, "little") >> 1


def generated(filming: Filming) -> Film:
    """Ego frames by a generator of velocities, from each clip's own noise."""
    where = filming.checkpoint
    first_frames = _first_frames(where, filming.state)
    experiment = cast(DiffusionExperiment, parse_experiment(filming.state.experiment, where=where))
    stream = _stream(filming, experiment, first_frames)
    generator = _load_generator(filming)

    def film(clip_id: str) -> UInt8[Tensor, "T H W 3"]:
        batch = stream.batch_of([clip_id])
        arrays = {name: value.to(filming.device) for name, value in batch.arrays.items()}
        given = given_of(replace(batch, arrays=arrays), experiment)
        drawn = torch.Generator().manual_seed(noise_seed(filming.seed, clip_id))
        noise = torch.randn(given.condition.shape, generator=drawn).to(filming.device)
        latents = solve(generator, given, noise, filming.sampler)
        return frames_from_video(filming.codec.decode(latents))[0]

    return film


def _load_generator(filming: Filming) -> VideoGenerator:
    """The run's generator, its Wan in as much memory as is asked for."""
    spares = filming.memory != MemorySettings()  # then it must not be on the GPU whole, not once
    place = "cpu" if spares else filming.device
    model = load_model(filming.checkpoint, wan_spec=filming.wan_spec, device=place)
    spare_memory(cast(Any, model).wan, filming.memory, filming.device)
    for name, child in model.named_children():
        if name != "wan" or filming.memory.offload == "none":
            nn.Module.to(child, filming.device)
    return cast(VideoGenerator, model)


MAKERS = {"align": Maker(per_frame_align, solves=False, needs=("exo_frames",))}
"""How the stages that are no generators make a clip's ego frames."""
GENERATOR = Maker(generated, solves=True)
"""How every other stage does."""


def _sample_clip(
    filming: Filming, maker: Maker, film: Film, out: Path, clip_id: str
) -> SampledClip:
    """Samples one clip and writes its files."""
    began = time.perf_counter()
    frames = film(clip_id).cpu()
    data = save({"frames": frames.contiguous()}, metadata={"clip": clip_id})
    write_whole(out / f"{clip_id}.safetensors", data)
    return SampledClip(
        noise_seed=noise_seed(filming.seed, clip_id) if maker.solves else None,
        frames=f"{clip_id}.safetensors",
        pictures=_write_pictures(filming, out, clip_id, frames),
        seconds=time.perf_counter() - began,
    )


def _write_pictures(
    filming: Filming, out: Path, clip_id: str, frames: UInt8[Tensor, "T H W 3"]
) -> list[str]:
    """Writes what is to be looked at; returns the files' names."""
    clips, generated = filming.store.recipe.clips, frames.numpy()
    names = [f"{clip_id}.{ending}" for ending in ("ego.mp4", "side-by-side.mp4", "strip.png")]
    row = filming.store.row(clip_id)
    videos = _videos(filming, clip_id, "exo")[: len(row.present)]
    exos = [
        Panel(camera.cam_id, video.numpy())
        for camera, video in zip(row.present, videos, strict=True)
    ]
    truth = Panel("truth", _videos(filming, clip_id, "ego")[0].numpy()) if row.ego.video else None
    together = side_by_side(exos, truth, Panel("generated", generated))
    fps = clips.fps / clips.stride
    write_video(out / names[0], generated, fps)
    write_video(out / names[1], together, fps)
    write_strip(out / names[2], generated)
    return names


def _videos(filming: Filming, clip_id: str, side: str) -> UInt8[Tensor, "v T H W 3"]:
    """The exo views or the one ego video: as they were cut, else decoded from their latents."""
    store = filming.store
    if store.row(clip_id).rows[f"{side}_frames"] != ABSENT_ROW:
        frames = torch.from_numpy(store.read(f"{side}_frames", [clip_id]))
        return frames[0] if side == "exo" else frames
    latents = torch.from_numpy(store.read(f"{side}_latents", [clip_id])).float().nan_to_num()
    axes = "1 t v c h w -> v c t h w" if side == "exo" else "v t c h w -> v c t h w"
    return frames_from_video(filming.codec.decode(rearrange(latents, axes))).cpu()


def _stream(filming: Filming, experiment: DiffusionExperiment, first_frames: str) -> ClipStream:
    """What the generator is given for its clips. Raises StoreFault without its first frames."""
    reads = STAGES[filming.state.stage].reads(experiment)
    frames = open_first_frames(filming.store, first_frames, experiment.condition)
    return ClipStream(
        filming.store,
        [read for read in reads if read != "ego_latents"],
        batch_size=1,
        seed=0,
        clip_ids=filming.clip_ids,
        derived={FIRST_FRAMES: frames.digest},
    )


def _first_frames(checkpoint: Path, state: CheckpointState) -> str:
    """Digest of the first frames that the generator was trained with."""
    if state.first_frames:
        return state.first_frames
    raise CheckpointFault(
        "This generator's checkpoint does not name the first frames that it was given.",
        where=f"{checkpoint}, first_frames",
        expected="a digest",
        got="nothing",
        fix="Go back to an older checkpoint of the run, or train it again.",
    )


def _clips_of(store: Store, evaluation_set: str) -> list[str]:
    """Ids of the clips of an evaluation set. Raises StoreFault if there are none."""
    if found := store.select(evaluation_set=evaluation_set):
        return found
    raise StoreFault(
        "The store has no clip of this evaluation set.",
        where=f"{store.path}@{store.hash[:12]}",
        expected=f"one of {sorted({name for row in store.rows for name in row.sets})}",
        got=evaluation_set,
        fix="Choose another set, or encode takes of the test split.",
    )
