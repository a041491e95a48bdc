"""One task of `encode-latents`: the clips of one shard, from five videos to rows on the disk."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distributed import get_worker
from einops import rearrange
from jaxtyping import Float16, UInt8
from torch import Tensor

from exo2ego.geometry.camera import CameraError
from exo2ego.geometry.clip_rays import CLIP_RAYS
from exo2ego.model.vae import LatentCodec, load_codec, video_from_frames
from pipeline.fit import FrameMaker
from pipeline.video import VideoFault, iterate_frames
from stores.errors import StoreFault, UserFault
from stores.index import CameraRow, ClipRow
from stores.place import Place
from stores.recipe import ClipRecipe
from stores.version import StoreRecipe
from stores.zarr_store import write_shard

ClipFrames = list[UInt8[Tensor, "T H W 3"] | None]
"""The frames of one view, clip by clip; None where the view is absent."""


@dataclass(frozen=True)
class PlannedShard:
    """Clips of one take that make up one shard, and the arrays to keep of them."""

    number: int
    clips: tuple[ClipRow, ...]
    arrays: tuple[str, ...]


@dataclass(frozen=True)
class EncodeJob:
    """What all tasks of a run share: from where, by what recipe and VAE, into which store."""

    root: Path
    store: Place
    recipe: StoreRecipe
    vae_spec: str
    device: str


@dataclass(frozen=True)
class ShardTask:
    """What a worker must know."""

    job: EncodeJob
    shard: PlannedShard


@dataclass(frozen=True)
class ShardOutcome:
    """What a task tells: numbers and words only; the arrays stay on the disk."""

    shard: int
    seconds: float
    failure: str | None
    """Why there is no shard: a video or a camera that cannot be used."""


def encode_shard(task: ShardTask) -> ShardOutcome:
    """Decodes, encodes and writes one whole shard of every array of the task.

    One thread of torch per task, and one clip of one view at a time, so that the bits of a clip
    depend on neither the number of workers nor its neighbours.
    """
    torch.set_num_threads(1)
    started = time.perf_counter()
    try:
        codec = _codec_of_this_thread(task)
        write_shard(task.job.store, task.shard.number, task.shard.clips, _rows(task, codec))
    except (UserFault, CameraError) as fault:
        return ShardOutcome(task.shard.number, time.perf_counter() - started, str(fault))
    return ShardOutcome(task.shard.number, time.perf_counter() - started, None)


def _rows(task: ShardTask, codec: LatentCodec) -> dict[str, Iterator[np.ndarray]]:
    """Rows of every array of the task, clip by clip, made as they are written."""
    recipe, clips, wanted = task.job.recipe.clips, task.shard.clips, task.shard.arrays
    has_ego = "ego_latents" in wanted
    ego = _decode_view(task, [clip.ego for clip in clips], is_ego=True) if has_ego else []
    exos, exo_latents = [], []
    for view in range(recipe.views):
        frames = _decode_view(task, [clip.exos[view] for clip in clips], is_ego=False)
        exo_latents.append([_encode(codec, recipe, clip) for clip in frames])
        # else a view's frames may go as soon as it is encoded
        if "exo_frames" in wanted:
            exos.append([_frames_or_black(recipe, clip) for clip in frames])
    rows = {
        "exo_latents": (np.stack(views, axis=1) for views in zip(*exo_latents, strict=True)),
        "ego_latents": (_encode(codec, recipe, clip) for clip in ego),
        **{name: map(partial(make, recipe), clips) for name, make in CLIP_RAYS.items()},
        "ego_frames": (_frames_or_black(recipe, clip) for clip in ego),
        "exo_frames": (np.stack(views) for views in zip(*exos, strict=True)),
    }
    return {name: rows[name] for name in wanted}


def _decode_view(
    task: ShardTask, cameras: Sequence[CameraRow | None], *, is_ego: bool
) -> ClipFrames:
    """Each clip's frames in this view, at the recipe's size; each video is decoded once."""
    found: ClipFrames = [None] * len(cameras)
    there = {k: camera for k, camera in enumerate(cameras) if camera is not None}
    for source in dict.fromkeys(map(_source, there.values())):
        members = [k for k, camera in there.items() if _source(camera) == source]
        wanted = sorted({frame for k in members for frame in task.shard.clips[k].frames})
        camera = there[members[0]]
        make = FrameMaker(task.job.recipe.clips, camera, is_ego=is_ego)
        small = _decode(task.job.root / camera.video, wanted, make)
        for k in members:
            found[k] = torch.stack([small[frame] for frame in task.shard.clips[k].frames])
    return found


def _source(camera: CameraRow) -> tuple[Any, ...]:
    """What must be equal for one pass over one video to serve two clips."""
    return camera.video, camera.lens, camera.params, camera.hw, camera.quarter_turns_cw


def _decode(path: Path, wanted: list[int], make: FrameMaker) -> dict[int, UInt8[Tensor, "H W 3"]]:
    """The wanted frames by their index, resampled one by one."""
    small = {}
    for index, frame in iterate_frames(path, wanted):
        if frame.shape[:2] != make.source_hw:
            raise VideoFault(
                "The video's frames are not of the size that its camera was calibrated for.",
                where=path,
                expected=make.source_hw,
                got=frame.shape[:2],
                fix="Take video and calibration of one release, then ingest again.",
            )
        small[index] = make(torch.from_numpy(frame)[None])[0]
    return small


def _encode(
    codec: LatentCodec, recipe: ClipRecipe, frames: UInt8[Tensor, "T H W 3"] | None
) -> Float16[np.ndarray, "t c h w"]:
    """Latents as they are stored; NaN for a view that is absent."""
    if frames is None:
        latent = recipe.shape.latent()
        shape = (latent.frames, latent.channels, *latent.hw)
        return np.full(shape, np.nan, dtype=np.float16)
    latents = codec.encode(video_from_frames(frames[None]))
    return rearrange(latents, "1 c t h w -> t c h w").to(torch.float16).cpu().numpy()


def _frames_or_black(
    recipe: ClipRecipe, frames: UInt8[Tensor, "T H W 3"] | None
) -> UInt8[np.ndarray, "T H W 3"]:
    """Frames as they are stored; bytes have no NaN, so an absent view is black."""
    if frames is None:
        return np.zeros((recipe.frames, *recipe.hw, 3), dtype=np.uint8)
    return frames.numpy()


def _codec_of_this_thread(task: ShardTask) -> LatentCodec:
    """This thread's own codec: the VAE keeps its caches on itself, two threads would mix them."""
    kept: dict[str, Any] = vars(get_worker())
    codecs = kept.setdefault("exo2ego_codecs", {})
    key = (threading.get_ident(), task.job.vae_spec, task.job.device)
    # loading goes through torch's one global generator and diffusers' global switches
    with kept.setdefault("exo2ego_loading", threading.Lock()):
        if key not in codecs:
            codecs[key] = _checked(load_codec(task.job.vae_spec, device=task.job.device), task)
    return codecs[key]


def _checked(codec: LatentCodec, task: ShardTask) -> LatentCodec:
    expected, got = task.job.recipe.vae.model_dump(), codec.recipe()
    if got != expected:
        raise StoreFault(
            "This worker loads another VAE than the one that the store is made with.",
            where=task.job.vae_spec,
            expected=expected,
            got=got,
            fix="Give all workers the same weights.",
        )
    return codec
