"""The verb `encode-latents`: clip index to store, on Dask, a shard a task, resumable."""

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from exo2ego.model.vae import load_codec
from pipeline.encode_plan import ClipWork, EncodePlan, Wish, pack, plan_encode, take_over
from pipeline.encode_shard import EncodeJob, ShardOutcome, ShardTask
from pipeline.encode_workers import PATIENCE_SECONDS, Crew, crew
from pipeline.quarantine import FailedClips, group_failures, read_rejects, write_rejects
from stores.arrays import shard_path
from stores.atomic import PARTIAL, remove_partials
from stores.errors import StoreFault, UserFault
from stores.index import ClipIndex, ClipRow, read_index
from stores.journal import (
    FinishedShard,
    Run,
    begin_run,
    claim_shards,
    drop_entries,
    end_run,
    read_entries,
)
from stores.lock import write_lock
from stores.place import Place
from stores.progress import Track, silent
from stores.schema import ARRAYS
from stores.version import StoredClip, StoreRecipe, VaeRecipe, read_head
from stores.zarr_store import (
    CLIPS_PER_SHARD,
    commit,
    create_store,
    head_clips,
    next_shard,
    stored_clips,
)

_USUAL = Wish()
ATTEMPTS = 2
"""How often a run tries a clip: what fails once is tried again after all others."""


@dataclass(frozen=True)
class EncodeReport:
    """What the verb did."""

    hash: str
    clips_new: int
    """Clips of which this version has rows that its parent had not, or had with other data."""
    clips_total: int
    clips_resumed: int
    """Of the new ones: those that an interrupted run had finished, in part at least."""
    seconds: float
    failed: tuple[FailedClips, ...]
    """In quarantine, as rejects.json has them; a later run tries them again."""


@dataclass
class _Progress:
    """What a run has so far."""

    finished: list[FinishedShard]
    next_number: int
    reasons: dict[str, str] = field(default_factory=dict)
    """By id: why a clip failed last."""
    attempts: dict[str, int] = field(default_factory=dict)


def encode_latents(
    index_path: Path,
    store_path: Place,
    *,
    vae_spec: str,
    wish: Wish = _USUAL,
    splits: tuple[str, ...] | None = None,
    workers: int | None = None,
    device: str = "cpu",
    scheduler: str | None = None,
    clips_per_shard: int = CLIPS_PER_SHARD,
    patience_seconds: float = PATIENCE_SECONDS,
    track: Track = silent,
) -> EncodeReport:
    """Encodes what the store lacks of the clips of the index, and commits its new version.

    `wish` says which splits keep their frames, and whether rays are stored. `scheduler` is the
    address of a Dask scheduler whose workers see the same disk, of which the run waits
    `patience_seconds` for a first worker; without it, `workers` tasks of this process work at
    once. Clips that fail twice are left out, told in the report and in rejects.json, and tried
    again by the next run. SIGTERM ends it as Ctrl-C does. Raises StoreFault if the store has
    another recipe, if nothing can be written, or if the cluster is lost.
    """
    started, index = time.perf_counter(), read_index(index_path)
    recipe = store_recipe(index, vae_spec, device)
    with stopped_by_sigterm(), _disk_faults(store_path), write_lock(store_path):
        size = create_store(store_path, recipe, clips_per_shard=clips_per_shard).clips_per_shard
        _remove_partials(store_path)
        rows = chosen_rows(index, splits)
        plan = plan_encode(recipe.clips, head_clips(store_path), rows, wish)
        taken, left = _take_over(store_path, plan)
        run = begin_run(store_path / "journal", _free_number(store_path, taken))
        progress = _Progress(list(taken), run.first_shard)
        job = EncodeJob(Path(index.root), store_path, recipe, vae_spec, device, run.token)
        try:
            if left:
                with crew(workers, scheduler, device, patience_seconds) as hands:
                    try:
                        _run(hands, job, run, left, size, progress, track)
                    finally:
                        end_run(store_path / "journal", run)  # first, so that no task goes on
        finally:
            end_run(store_path / "journal", run)
        failed = _quarantine(store_path, left, progress)
        new = _complete(plan, progress.finished, size)
        name = _commit(store_path, [*new, *plan.relabelled], index, failed)
        total = len(head_clips(store_path))
    resumed = {clip_id for entry in taken for clip_id in entry.clip_ids}
    seconds = time.perf_counter() - started
    return EncodeReport(name, len(new), total, len(resumed), seconds, tuple(failed))


def store_recipe(index: ClipIndex, vae_spec: str, device: str) -> StoreRecipe:
    """The recipe of a store of these clips, by this VAE."""
    vae = load_codec(vae_spec, device=device).recipe()
    return StoreRecipe(clips=index.recipe, vae=VaeRecipe.model_validate(vae))


def chosen_rows(index: ClipIndex, splits: tuple[str, ...] | None) -> list[ClipRow]:
    """The clips of these splits, or all."""
    return [row for row in index.rows if splits is None or row.split in splits]


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does, in the main thread; elsewhere nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _disk_faults(store: Place) -> Iterator[None]:
    """Turns what the disk refuses to the run itself into a StoreFault."""
    try:
        yield
    except UserFault:
        raise
    except OSError as refused:
        raise _unwritable(store, str(refused)) from refused


def _unwritable(store: Place, got: str) -> StoreFault:
    return StoreFault(
        "The store cannot be written.",
        where=store,
        expected="a disk that can be written, with room for all shards",
        got=got,
        fix="Make room, then run the same command again: finished shards are kept.",
    )


def _remove_partials(store: Place) -> None:
    """Removes what killed encodes left; derived arrays have writers of their own."""
    for name in ("arrays", "journal", "versions"):
        remove_partials(store / name)
    for partial in store.glob("*" + PARTIAL):
        partial.unlink()


def _take_over(store: Place, plan: EncodePlan) -> tuple[list[FinishedShard], list[ClipWork]]:
    """Shards of an interrupted run that are wanted and there; the others are forgotten."""
    entries = [entry for entry in read_entries(store / "journal") if _files_exist(store, entry)]
    taken, left = take_over(entries, plan.work)
    drop_entries(store / "journal", keep={entry.shard for entry in taken})
    return taken, left


def _files_exist(store: Place, entry: FinishedShard) -> bool:
    names = entry.digests
    return all(shard_path(store / "arrays", ARRAYS[n], entry.shard).exists() for n in names)


def _free_number(store: Place, taken: Sequence[FinishedShard]) -> int:
    return max([next_shard(store), *(entry.shard + 1 for entry in taken)])


def _run(
    hands: Crew,
    job: EncodeJob,
    run: Run,
    work: Sequence[ClipWork],
    clips_per_shard: int,
    progress: _Progress,
    track: Track,
) -> None:
    """Runs all of the work, and once more what failed, counting clips into `progress`."""
    outcomes = _rounds(hands, job, run, work, clips_per_shard, progress)
    for _ in track(outcomes, total=len(work), what="encode", unit="clips"):
        pass


def _rounds(
    hands: Crew,
    job: EncodeJob,
    run: Run,
    work: Sequence[ClipWork],
    clips_per_shard: int,
    progress: _Progress,
) -> Iterator[str]:
    """Ids of the clips that are finished, or that failed for the last time."""
    for attempt in range(1, ATTEMPTS + 1):
        shards = pack(work, clips_per_shard, progress.next_number)
        progress.next_number += len(shards)
        claim_shards(job.store / "journal", run, progress.next_number)
        for outcome in hands.run(ShardTask(job, shard) for shard in shards):
            yield from _note(job.store, outcome, progress)
            if attempt == ATTEMPTS:
                yield from outcome.failures
        work = [piece for piece in work if piece.clip.clip_id in progress.reasons]
        if not work:
            return


def _note(store: Place, outcome: ShardOutcome, progress: _Progress) -> tuple[str, ...]:
    """Adds the outcome to `progress`; ids of the clips that it finished."""
    if outcome.refused is not None:
        raise _unwritable(store, outcome.refused)
    progress.reasons |= outcome.failures
    for clip_id in outcome.failures:
        progress.attempts[clip_id] = progress.attempts.get(clip_id, 0) + 1
    if outcome.finished is None:
        return ()
    progress.finished.append(outcome.finished)
    for clip_id in outcome.finished.clip_ids:
        progress.reasons.pop(clip_id, None)
    return outcome.finished.clip_ids


def _quarantine(store: Place, work: Iterable[ClipWork], progress: _Progress) -> list[FailedClips]:
    """Writes what failed, with the attempts of earlier runs counted in."""
    before = {clip_id: old.attempts for old in read_rejects(store) for clip_id in old.clip_ids}
    attempts = {c: before.get(c, 0) + tried for c, tried in progress.attempts.items()}
    clips = [piece.clip for piece in work]
    failed = group_failures(clips, progress.reasons, attempts)
    write_rejects(store, failed)
    return failed


def _complete(
    plan: EncodePlan, finished: Iterable[FinishedShard], clips_per_shard: int
) -> list[StoredClip]:
    """The clips of the plan of which every array is made."""
    together: dict[str, StoredClip] = dict(plan.kept)
    for entry in finished:
        for clip in stored_clips(entry, together, clips_per_shard, kept=together):
            together[clip.clip_id] = clip
    made = {piece.clip.clip_id: {*piece.arrays, *piece.factored} for piece in plan.work}
    return [
        together[clip_id]
        for clip_id, arrays in made.items()
        if all(together[clip_id].digests[name] for name in arrays)
    ]


def _commit(
    store: Place, clips: list[StoredClip], index: ClipIndex, failed: Sequence[FailedClips]
) -> str:
    """Hash of the version with these clips; of the present one if there is nothing to add."""
    head = read_head(store)
    if clips:
        return commit(store, clips, command="encode-latents", index_digest=index.digest)
    if head is not None:
        return head
    raise StoreFault(
        "No clip could be encoded; the store stays empty.",
        where=store,
        expected=f"clips of the {len(index.rows)} in the index",
        got=failed[0].reason if failed else "none of the splits that were asked for",
        fix=f"See {store / 'rejects.json'}." if failed else "Ask for a split that the index has.",
    )
