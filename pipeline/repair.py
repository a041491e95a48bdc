"""The verb `store repair`: damaged rows of a store made again from the videos and the cameras."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from pathlib import Path

import numpy as np

from exo2ego.geometry.clip_rays import CLIP_RAYS
from exo2ego.model.vae import LatentCodec
from pipeline.clip_parts import ClipParts
from pipeline.encode_plan import OF_EXO_VIEWS, ClipWork, PlannedShard
from pipeline.encode_shard import EncodeJob, ShardTask, load_checked_codec, make_parts
from pipeline.quarantine import FailedClips, group_failures
from stores.arrays import row_digest
from stores.errors import StoreFault
from stores.journal import begin_run, end_run
from stores.lock import write_lock
from stores.mend import named_rows, rewrite_shard
from stores.place import Place
from stores.progress import Track, silent
from stores.reading import Store
from stores.schema import ARRAYS
from stores.settings import ZARR
from stores.verify import DamagedRow, verify_store
from stores.version import StoredClip, list_versions, read_head, read_version
from stores.zarr_store import commit, next_shard, open_store, stored_clips, write_shard

NO_ROOT = Path("no-root-given")


@dataclass(frozen=True)
class RepairReport:
    """What a repair found and did."""

    hash: str
    """Of the version that is whole now: the same one, or its child."""
    rows_damaged: int
    rows_in_place: int
    """Made again with the digests of the manifest, and written where they were."""
    rows_anew: int
    """Made again with other bits (another device or build): rows of the child version."""
    failed: tuple[FailedClips, ...]
    """Clips that stay damaged, and why they cannot be made again."""
    other_versions: tuple[str, ...]
    """Versions that name rows of the mended shards which are lost to them."""


@dataclass
class _Mended:
    """What was done so far."""

    in_place: int = 0
    anew: int = 0
    clips: dict[str, StoredClip] = field(default_factory=dict)
    """By id: clips of which rows were made with other bits, with their new places."""
    lost: set[tuple[str, int]] = field(default_factory=set)
    """Arrays and row numbers that are absent from a shard that was written again."""
    named: dict[str, dict[int, str]] = field(default_factory=dict)
    """By array: the digests of the rows that any version names."""


def repair(
    store: str | Place,
    root: Path | None,
    *,
    vae_spec: str,
    device: str = "cpu",
    track: Track = silent,
) -> RepairReport:
    """Verifies the version, and makes its damaged rows again; nothing else is written.

    `root` is where the dataset lies: without it only rays can be made. Rows come back in place if
    every digest of their shard's damaged rows is reproduced; else they become rows of a child
    version. Raises StoreFault for a folder of tars, for a manifest whose labels are damaged, for
    another VAE than the store's, or if a version that is not HEAD would need a child.
    """
    opened = open_store(store, derive=CLIP_RAYS)
    _check_container(opened)
    with write_lock(opened.path):
        report = verify_store(opened, track)
        _check_labels(opened, report.damaged)
        if not report.damaged:
            return RepairReport(opened.hash, 0, 0, 0, (), ())
        mended, failures = _Mended(), dict[str, str]()
        _mend_all(opened, report.damaged, root, (vae_spec, device), mended, failures, track)
        name = _commit(opened, mended)
        others = _others_that_lost(opened, mended.lost)
    attempts = dict.fromkeys(failures, 1)
    failed = group_failures(opened.rows, failures, attempts)
    counts = (len(report.damaged), mended.in_place, mended.anew)
    return RepairReport(name, *counts, tuple(failed), others)


def _mend_all(
    store: Store,
    damaged: tuple[DamagedRow, ...],
    root: Path | None,
    vae: tuple[str, str],
    mended: _Mended,
    failures: dict[str, str],
    track: Track,
) -> None:
    """Mends shard after shard, and says what could not be made, by clip id."""
    shards = sorted(damaged, key=lambda row: (row.shard, row.clip_id, row.array))
    groups = [list(rows) for _, rows in groupby(shards, key=lambda row: row.shard)]
    codec = _codec(store, damaged, root, vae)
    run = begin_run(store.path / "journal", next_shard(store.path))
    job = EncodeJob(root or NO_ROOT, store.path, store.recipe, *vae, run.token)
    try:
        for rows in track(groups, total=len(groups), what="repair", unit="shards"):
            work = _work(store, rows)
            task, failed = ShardTask(job, PlannedShard(rows[0].shard, work)), dict[int, str]()
            parts = make_parts(task, codec, failed)
            failures |= {work[k].clip.clip_id: reason for k, reason in failed.items()}
            whole = {work[k].clip.clip_id: parts[k] for k in range(len(work)) if k not in failed}
            for array in dict.fromkeys(row.array for row in rows):
                ids = [r.clip_id for r in rows if r.array == array and r.clip_id in whole]
                _mend_array(store, array, rows[0].shard, {c: whole[c] for c in ids}, mended)
    finally:
        end_run(store.path / "journal", run)


def _work(store: Store, rows: list[DamagedRow]) -> tuple[ClipWork, ...]:
    """What is to be made of each clip of one shard: its damaged arrays, every view of them."""
    found = []
    for clip_id, of_clip in groupby(rows, key=lambda row: row.clip_id):
        arrays = tuple(row.array for row in of_clip)
        every = tuple(range(store.recipe.clips.views))
        views = {name: every for name in arrays if name in OF_EXO_VIEWS}
        found.append(ClipWork(store.row(clip_id), arrays, views=views))
    return tuple(found)


def _mend_array(
    store: Store, array: str, shard: int, parts: Mapping[str, ClipParts], mended: _Mended
) -> None:
    """Writes the rows of one array in one shard: in place if all digests are the manifest's."""
    if not parts:
        return
    clips = {clip_id: store.row(clip_id) for clip_id in parts}
    layout = store.reader(array).layout
    same = all(
        row_digest(layout, parts[clip_id].row(array)) == clip.digests[array]
        for clip_id, clip in clips.items()
    )
    if not same:
        _write_anew(store, array, clips, parts, mended)
        return
    made = {c.rows[array]: partial(parts[clip_id].row, array) for clip_id, c in clips.items()}
    if array not in mended.named:
        mended.named[array] = named_rows(store.path, array)
    lost = rewrite_shard(store.path, array, shard, made, mended.named[array])
    mended.in_place += len(made)
    mended.lost |= {(array, row) for row in lost}


def _write_anew(
    store: Store,
    array: str,
    clips: Mapping[str, StoredClip],
    parts: Mapping[str, ClipParts],
    mended: _Mended,
) -> None:
    """Writes the rows to a shard of their own, for a child of the version."""
    if read_head(store.path) != store.hash:
        raise StoreFault(
            "The rows come out with other bits here, and only the newest version can have a child.",
            where=f"{store.path}@{store.hash[:12]}",
            expected="the digests of the manifest, as the device that encoded them gave",
            got=f"others for {array} of {len(clips)} clips",
            fix="Repair on the kind of device that encoded the store, or repair its newest "
            "version and go on with that.",
        )
    together = mended.clips
    rows: Iterator[np.ndarray] = (parts[clip_id].row(array) for clip_id in clips)
    number = _free_number(store, together)
    finished = write_shard(store.path, number, list(clips.values()), {array: rows})
    before = {clip_id: together.get(clip_id, clip) for clip_id, clip in clips.items()}
    for clip in stored_clips(finished, clips, store.clips_per_shard, kept=before):
        together[clip.clip_id] = clip
    mended.anew += len(clips)


def _free_number(store: Store, together: Mapping[str, StoredClip]) -> int:
    """A shard number that neither a version nor this repair has used."""
    rows = chain.from_iterable(clip.rows.values() for clip in together.values())
    return max([next_shard(store.path), *(row // store.clips_per_shard + 1 for row in rows)])


def _commit(store: Store, mended: _Mended) -> str:
    if not mended.clips:
        return store.hash
    digest = store.version.record.index_digest
    return commit(store.path, mended.clips.values(), command="store repair", index_digest=digest)


def _others_that_lost(store: Store, lost: set[tuple[str, int]]) -> tuple[str, ...]:
    """Other versions that name a row which is gone; their own repair makes it again."""
    found = []
    for name in list_versions(store.path):
        table = read_version(store.path, store.recipe, name).table
        named = {
            (array, row)
            for array in {array for array, _ in lost}
            for row in table[f"row_{array}"].to_pylist()
        }
        if name != store.hash and named & lost:
            found.append(name)
    return tuple(found)


def _codec(
    store: Store, damaged: tuple[DamagedRow, ...], root: Path | None, vae: tuple[str, str]
) -> LatentCodec | None:
    """The store's VAE if latents are to be made. Raises StoreFault if there is no dataset."""
    from_videos = sorted({row.array for row in damaged} - set(CLIP_RAYS))
    if from_videos and root is None:
        raise StoreFault(
            "The videos are needed to make these arrays again.",
            where=store.path,
            expected="the dataset's folder, for " + ", ".join(from_videos),
            got="none",
            fix="Give --root FOLDER: the folder that was given to `exo2ego ingest`.",
        )
    latents = [name for name in from_videos if name.endswith("_latents")]
    return load_checked_codec(store.recipe, *vae) if latents else None


def _check_container(store: Store) -> None:
    if store.container != ZARR:
        raise StoreFault(
            "A folder of tars is not repaired in place.",
            where=store.path,
            expected="a Zarr store",
            got=store.container,
            fix="Delete the damaged tar and run `exo2ego store export` again: it makes what is "
            "missing; or import what is whole, and encode.",
        )


def _check_labels(store: Store, damaged: tuple[DamagedRow, ...]) -> None:
    """Raises StoreFault for what no video brings back: labels, and rays that come out others."""
    hopeless = [row for row in damaged if row.array not in ARRAYS or row.shard < 0]
    if hopeless:
        first = hopeless[0]
        raise StoreFault(
            f"What the manifest says of {first.clip_id} cannot be mended: {first.reason}.",
            where=f"{store.path}/versions/{store.hash}.parquet",
            expected="cameras, frames and labels with the digests that the manifest has",
            got=f"{len(hopeless)} clips with others",
            fix="Restore the manifest and its record from a copy, or open another version.",
        )
