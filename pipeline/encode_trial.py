"""`encode-latents --dry-run`: what there is to do, and how long it takes by a trial on one clip."""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from exo2ego.geometry.camera import CameraError
from exo2ego.geometry.clip_rays import CLIP_RAYS
from exo2ego.model.vae import LatentCodec, load_codec
from pipeline.clip_frames import decode_clips
from pipeline.clip_parts import ClipParts
from pipeline.encode import chosen_rows
from pipeline.encode_plan import ClipWork, Wish, pack, plan_encode, take_over
from pipeline.encode_shard import requests_of
from pipeline.encode_workers import MOST_THREADS
from stores.arrays import shard_layout, shard_path
from stores.errors import StoreFault, UserFault
from stores.index import read_index
from stores.journal import read_entries
from stores.place import Place
from stores.recipe import ClipRecipe
from stores.schema import ARRAYS
from stores.settings import check_same_recipe, read_settings
from stores.version import StoreRecipe, VaeRecipe
from stores.zarr_store import CLIPS_PER_SHARD, create_store, head_clips, write_shard

_MOST_TRIED = 5
"""Clips that are tried until one can be encoded."""


@dataclass(frozen=True)
class ArrayJob:
    """What is to be written of one array."""

    rows: int
    bytes_raw: int
    bytes_on_disk: int
    """Estimated: packed as the trial's row was."""


@dataclass(frozen=True)
class StageRate:
    """What one stage costs, as one clip showed it; everything else waits meanwhile."""

    seconds_a_clip: float
    clips_per_second: float


@dataclass(frozen=True)
class Trial:
    """What one clip cost, a stage at a time."""

    seconds: dict[str, float]
    packed: dict[str, float]
    """By array: bytes on the disk for each byte of the row."""


@dataclass(frozen=True)
class DryRun:
    """What an encode would do now."""

    clips: int
    clips_done: int
    """Clips that the store, or the journal of an interrupted run, has already."""
    takes: int
    shards: int
    arrays: dict[str, ArrayJob]
    bytes_on_disk: int
    tried: str
    """The clip that the rates come from."""
    stages: dict[str, StageRate]
    workers: int
    eta_seconds: float
    """Choice: the slower one of decoding and of all the rest, which a task does at the same time,
    shared by the workers as if they did not disturb each other."""


def try_encode(
    index_path: Path,
    store_path: Place,
    *,
    vae_spec: str,
    wish: Wish,
    splits: tuple[str, ...] | None = None,
    workers: int | None = None,
    device: str = "cpu",
) -> DryRun:
    """What `encode_latents` would do; one clip of it is encoded, in a temporary folder.

    Raises StoreFault as the encode itself would: for another recipe, or if no clip can be used.
    """
    index, codec = read_index(index_path), load_codec(vae_spec, device=device)
    recipe = StoreRecipe(clips=index.recipe, vae=VaeRecipe.model_validate(codec.recipe()))
    size, head, entries = CLIPS_PER_SHARD, [], []
    if (store_path / "store.json").exists():
        settings = read_settings(store_path)
        check_same_recipe(store_path, settings.recipe, recipe)
        size, head = settings.clips_per_shard, head_clips(store_path)
        entries = read_entries(store_path / "journal")
    rows = chosen_rows(index, splits)
    _, left = take_over(entries, plan_encode(index.recipe, head, rows, wish).work)
    tried, trial = _first_trial(Path(index.root), store_path, recipe, codec, left)
    arrays = _arrays(index.recipe, left, trial)
    count = workers or (torch.cuda.device_count() if device == "cuda" else 0)
    count = count or min(MOST_THREADS, os.cpu_count() or 1)
    seconds = {name: one * len(left) for name, one in trial.seconds.items()}
    decode = seconds.pop("decode", 0.0)
    return DryRun(
        clips=len(left),
        clips_done=len(rows) - len(left),
        takes=len({piece.clip.take_name for piece in left}),
        shards=len(pack(left, size, 0)),
        arrays=arrays,
        bytes_on_disk=sum(job.bytes_on_disk for job in arrays.values()),
        tried=tried,
        stages={
            name: StageRate(one, 1 / one if one else 0.0) for name, one in trial.seconds.items()
        },
        workers=count,
        eta_seconds=max(decode, sum(seconds.values())) / count,
    )


def _first_trial(
    root: Path, store: Place, recipe: StoreRecipe, codec: LatentCodec, work: Sequence[ClipWork]
) -> tuple[str, Trial]:
    """The trial of the commonest kind of clip that can be encoded, and which clip that was."""
    if not work:
        return "none: there is nothing to do", Trial({}, {})
    kinds = Counter((piece.arrays, piece.factored) for piece in work)
    usual = kinds.most_common(1)[0][0]
    alike = [piece for piece in work if (piece.arrays, piece.factored) == usual]
    for piece in alike[:_MOST_TRIED]:
        try:
            return piece.clip.clip_id, _try_clip(root, store, recipe, codec, piece)
        except (UserFault, CameraError, OSError) as fault:
            reason = str(fault)
    raise StoreFault(
        "None of the clips that were tried can be encoded.",
        where=root,
        expected=f"one of the first {min(_MOST_TRIED, len(alike))} clips",
        got=reason,
        fix="See to the dataset's folder; `exo2ego ingest` checks its videos.",
    )


def _try_clip(
    root: Path, store: Place, recipe: StoreRecipe, codec: LatentCodec, piece: ClipWork
) -> Trial:
    """Makes the clip's rows stage by stage, and writes them to a temporary store."""
    torch.set_num_threads(1)
    clock, seconds = _Clock(), dict[str, float]()
    decoded = list(decode_clips(root, recipe.clips, requests_of((piece,))))
    seconds["decode"] = clock.lap()
    parts = ClipParts(store, recipe.clips, piece)
    for request, frames in decoded:
        if isinstance(frames, Exception):
            raise frames
        parts.take(codec, request.view, frames)
    seconds["VAE"] = clock.lap()
    names = (*piece.arrays, *piece.factored)
    rows = {name: [parts.row(name)] for name in names if name in CLIP_RAYS}
    seconds["rays"] = clock.lap()
    rows |= {name: [parts.row(name)] for name in names if name not in CLIP_RAYS}
    with tempfile.TemporaryDirectory() as folder:
        trial_store = Path(folder) / "trial"
        create_store(trial_store, recipe, clips_per_shard=1)
        clock.lap()
        written = {name: rows[name] for name in piece.arrays}
        write_shard(trial_store, 0, [piece.clip], written, {n: rows[n] for n in piece.factored})
        seconds["write and hash"] = clock.lap()
        sizes = {
            name: shard_path(trial_store / "arrays", ARRAYS[name], 0).stat().st_size
            for name in piece.arrays
        }
    raw = {name: _row_bytes(recipe.clips, name) for name in piece.arrays}
    return Trial(seconds, {name: sizes[name] / raw[name] for name in piece.arrays})


def _arrays(recipe: ClipRecipe, work: Iterable[ClipWork], trial: Trial) -> dict[str, ArrayJob]:
    counts = Counter(name for piece in work for name in piece.arrays)
    jobs = {}
    for name in ARRAYS:
        raw = counts[name] * _row_bytes(recipe, name)
        if counts[name]:
            jobs[name] = ArrayJob(counts[name], raw, round(raw * trial.packed.get(name, 1.0)))
    return jobs


def _row_bytes(recipe: ClipRecipe, array: str) -> int:
    layout = shard_layout(ARRAYS[array], recipe.shape, 1)
    return layout.pieces * layout.piece_bytes


class _Clock:
    def __init__(self) -> None:
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        passed, self._since = now - self._since, now
        return passed
