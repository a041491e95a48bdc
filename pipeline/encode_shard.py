"""One task of `encode-latents`: the clips of one shard, from their videos to rows on the disk."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from distributed import get_worker

from exo2ego.geometry.camera import CameraError
from exo2ego.model.vae import LatentCodec, load_codec
from pipeline.clip_frames import FrameRequest, decode_clips
from pipeline.clip_parts import ClipParts
from pipeline.encode_plan import ClipWork, PlannedShard
from pipeline.run_ahead import run_ahead
from stores.arrays import RowDamage
from stores.errors import StoreFault, UserFault
from stores.journal import FinishedShard, is_current
from stores.place import Place
from stores.version import StoreRecipe
from stores.zarr_store import write_shard

CLIPS_AHEAD = 4
"""Choice: views of clips that are decoded before the VAE asks; 1.7 MiB each at the paper's size."""


_ASK_SECONDS = 0.5  # on an object store each question is a request


@dataclass(frozen=True)
class EncodeJob:
    """What all tasks of a run share: from where, by what recipe and VAE, into which store."""

    root: Path
    store: Place
    recipe: StoreRecipe
    vae_spec: str
    device: str
    run: str
    """Token of the run: a task stops once the store says that another one is on."""


@dataclass(frozen=True)
class ShardTask:
    """What a worker must know."""

    job: EncodeJob
    shard: PlannedShard


@dataclass(frozen=True)
class ShardOutcome:
    """What a task tells: ids, digests and words; the arrays stay on the disk."""

    shard: int
    seconds: float
    finished: FinishedShard | None
    """None if no clip of the shard could be made."""
    failures: dict[str, str]
    """By clip id: why it is not in the shard."""
    refused: str | None = None
    """What the disk said, if nothing can be written."""


class RunEnded(RuntimeError):
    """The run that a task belongs to is over, so that nobody waits for it."""


def encode_shard(task: ShardTask) -> ShardOutcome:
    """Decodes, encodes and writes one whole shard of every array of the task.

    One thread of torch per task, and one clip of one view at a time, so that the bits of a clip
    depend on neither the number of workers nor its neighbours.
    """
    torch.set_num_threads(1)
    started, failures = time.perf_counter(), dict[int, str]()
    finished, refused = None, None
    try:
        parts = make_parts(task, codec_of_this_thread(task.job), failures)
        finished = write_parts(task, parts, failures)
    except UserFault as fault:  # of no single clip: the VAE, or the store itself
        failures |= dict.fromkeys(range(len(task.shard.work)), str(fault))
    except OSError as error:
        refused = f"{error.strerror or error} ({error.filename or task.job.store})"
    by_id = {task.shard.work[k].clip.clip_id: reason for k, reason in sorted(failures.items())}
    seconds = time.perf_counter() - started
    return ShardOutcome(task.shard.number, seconds, finished, by_id, refused)


def make_parts(
    task: ShardTask, codec: LatentCodec | None, failures: dict[int, str]
) -> list[ClipParts]:
    """What each clip's rows are made of; what cannot be is added to `failures`, by position.

    A thread decodes ahead of the VAE, through all views and takes of the shard."""
    torch.set_num_threads(1)
    job = task.job
    parts = [ClipParts(job.store, job.recipe.clips, work) for work in task.shard.work]
    decoded = decode_clips(job.root, job.recipe.clips, requests_of(task.shard.work))
    check = _RunWatch(job)
    with run_ahead(decoded, CLIPS_AHEAD) as ready:
        for request, frames in ready:
            check()
            if isinstance(frames, Exception):
                failures.setdefault(request.position, str(frames))
            elif request.position not in failures:
                parts[request.position].take(codec, request.view, frames)
    return parts


def requests_of(work: tuple[ClipWork, ...]) -> list[FrameRequest]:
    """The frames that the clips' arrays need, take by take, view by view."""
    found: list[tuple[tuple[str, int], FrameRequest]] = []
    for position, piece in enumerate(work):
        clip = piece.clip
        if {"ego_latents", "ego_frames"} & set(piece.arrays):
            request = FrameRequest(position, None, clip.ego, clip.frames)
            found.append(((clip.take_name, -1), request))
        needed = {view for views in piece.views.values() for view in views}
        for view, exo in enumerate(clip.exos):
            if exo is not None and view in needed:
                found.append(
                    ((clip.take_name, view), FrameRequest(position, view, exo, clip.frames))
                )
    return [request for _, request in sorted(found, key=lambda pair: pair[0])]


def write_parts(
    task: ShardTask, parts: list[ClipParts], failures: dict[int, str]
) -> FinishedShard | None:
    """Writes the shard of all clips that did not fail; None if there are none.

    A row that cannot be made or stored costs its clip: the shard is then begun again without."""
    job, number = task.job, task.shard.number
    names = task.shard.work[0].arrays, task.shard.work[0].factored
    while whole := [k for k in range(len(parts)) if k not in failures]:
        rows = _Rows(parts, whole, _RunWatch(job))
        arrays, factored = ({name: rows.of(name) for name in group} for group in names)
        clips = [task.shard.work[k].clip for k in whole]
        try:
            return write_shard(job.store, number, clips, arrays, factored)
        except (StoreFault, CameraError, RowDamage) as fault:
            if rows.position is None:
                raise
            failures[rows.position] = str(fault)
    return None


class _Rows:
    """Rows of some clips, made as they are written; `position` is the clip that is written now."""

    def __init__(self, parts: list[ClipParts], whole: list[int], check: Callable[[], None]):
        self._parts, self._whole, self._check = parts, whole, check
        self.position: int | None = None

    def of(self, array: str) -> Iterator[Any]:
        for k in self._whole:
            self._check()
            self.position = k
            yield self._parts[k].row(array)
        self.position = None


class _RunWatch:
    """Raises RunEnded once the job's run is over; asks the store twice a second at most."""

    def __init__(self, job: EncodeJob):
        self._job, self._next_seconds = job, 0.0

    def __call__(self) -> None:
        if time.monotonic() < self._next_seconds:
            return
        if not is_current(self._job.store / "journal", self._job.run):
            raise RunEnded(f"run {self._job.run} of {self._job.store} is over")
        self._next_seconds = time.monotonic() + _ASK_SECONDS


def codec_of_this_thread(job: EncodeJob) -> LatentCodec:
    """This thread's own codec: the VAE keeps its caches on itself, two threads would mix them."""
    kept: dict[str, Any] = vars(get_worker())
    codecs = kept.setdefault("exo2ego_codecs", {})
    device = _device(job)
    key = (threading.get_ident(), job.vae_spec, device)
    # loading goes through torch's one global generator and diffusers' global switches
    with kept.setdefault("exo2ego_loading", threading.Lock()):
        if key not in codecs:
            codecs[key] = load_checked_codec(job.recipe, job.vae_spec, device)
    return codecs[key]


def _device(job: EncodeJob) -> str:
    """The job's device; workers of a local cluster share the GPUs out by their numbers."""
    worker = get_worker()
    if job.device == "cuda" and worker.address.startswith("inproc://"):
        return f"cuda:{int(worker.name) % torch.cuda.device_count()}"
    return job.device


def load_checked_codec(recipe: StoreRecipe, vae_spec: str, device: str) -> LatentCodec:
    """The VAE. Raises StoreFault if it is another one than the recipe's."""
    codec = load_codec(vae_spec, device=device)
    expected, got = recipe.vae.model_dump(), codec.recipe()
    if got != expected:
        raise StoreFault(
            "This is another VAE than the one that the store is made with.",
            where=vae_spec,
            expected=expected,
            got=got,
            fix="Give all workers, and every later run, the same weights.",
        )
    return codec
