"""A store as large as all of the dataset: opening it, and going on in the middle of an epoch."""

import os
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import pyarrow as pa

from benchmarks.rows import Row, interleaved_seconds
from benchmarks.store_clips import CLIPS_A_TAKE, EGO, EXO, RECIPE, clip_row
from stores.atomic import write_whole
from stores.index import ROW_SCHEMA, row_to_dict
from stores.reading import Store
from stores.schema import ARRAYS
from stores.settings import StoreSettings, write_settings
from stores.store_hash import table_hash
from stores.stream import ClipStream
from stores.version import (
    ABSENT_ROW,
    MANIFEST_SCHEMA,
    STORE_FORMAT,
    VersionRecord,
    manifest_bytes,
    move_head,
)
from stores.zarr_store import CLIPS_PER_SHARD, open_store

ALL_CLIPS = 300_000
"""About what all categories of the dataset give at the default recipe."""
TAKES_MADE, ROUNDS = 100, 5
_DIGEST_BYTES = 32


def large_store_rows(path: Path, real: Path, real_clips: int, batch: int) -> list[Row]:
    """What a store of ALL_CLIPS costs to open and to go on with; its rows are those of `real`."""
    write_large_store(path, ALL_CLIPS, real, real_clips)
    seconds = interleaved_seconds({"open": lambda: open_store(path)}, ROUNDS)["open"]
    size = sum(file.stat().st_size for file in (path / "versions").iterdir())
    store = open_store(path)
    first = ClipStream(store, (EXO, EGO), batch_size=batch, seed=0)
    state = first.state_dict() | {"step": ALL_CLIPS // batch // 2}
    first.close()

    def resume() -> None:
        stream = ClipStream(store, (EXO, EGO), batch_size=batch, seed=0)
        stream.load_state_dict(state)
        next(stream)
        stream.close()

    resumed = interleaved_seconds({"resume": resume}, ROUNDS)["resume"]
    count, note = f"{ALL_CLIPS:,} clips", f"{size / 1e6:.0f} MB of manifest"
    what = f"a stream of {count} resumed at half an epoch, to its first batch"
    return [
        Row(f"open_store, {count}", seconds, "s", None, 1.0, note),
        Row(what, 1e3 * resumed, "ms", None, 100.0),
    ]


def write_large_store(path: Path, clips: int, real: Path, real_clips: int) -> str:
    """A store of so many clips, with a manifest as it would be, over another store's shards.

    Each clip has some row of the other's first `real_clips`, with its digests. Returns the hash."""
    write_settings(path, StoreSettings(RECIPE, CLIPS_PER_SHARD))
    (path / "arrays").symlink_to(real.resolve() / "arrays")
    table = _manifest(clips, open_store(real), real_clips)
    name, manifest = table_hash(RECIPE, table), manifest_bytes(table)
    record = VersionRecord(
        format=STORE_FORMAT,
        hash=name,
        parent=None,
        clips=clips,
        when="2026-01-01T00:00:00+00:00",
        command="benchmark",
        recipe_digest=RECIPE.digest,
        index_digest="0",
        manifest_digest=blake3.blake3(manifest).hexdigest(),
    )
    write_whole(path / "versions" / f"{name}.parquet", manifest)
    write_whole(path / "versions" / f"{name}.json", record.model_dump_json().encode())
    move_head(path, None, name)
    return name


def _manifest(clips: int, real: Store, real_clips: int) -> pa.Table:
    """The manifest. Cameras and frames are those of a few takes, over and over: too many to be
    packed as repetitions. Names are each clip's own, and digests of what is not read."""
    made = min(clips, TAKES_MADE * CLIPS_A_TAKE)
    few = pa.Table.from_pylist([row_to_dict(clip_row(k)) for k in range(made)], schema=ROW_SCHEMA)
    table = pa.concat_tables([few] * -(-clips // made)).slice(0, clips).combine_chunks()
    takes = np.arange(clips) // CLIPS_A_TAKE
    starts = [int(frames[0].as_py()) for frames in table["frames"][:CLIPS_A_TAKE]]
    names = [f"cmu_bike{take:05d}_2" for take in takes.tolist()]
    own: dict[str, Any] = {
        "clip_id": [f"{name}-f{starts[k % CLIPS_A_TAKE]:06d}" for k, name in enumerate(names)],
        "take_name": names,
        "take_uid": [f"00000000-0000-4000-8000-{take:012d}" for take in takes.tolist()],
    }
    kept = {name for name, spec in ARRAYS.items() if spec.every_clip}
    rows = np.random.default_rng(0).integers(0, real_clips, clips)
    for name in ARRAYS:
        digests = real.version.table[f"digest_{name}"].combine_chunks()
        is_read = digests[0].as_py() != ""
        own[f"row_{name}"] = rows if name in kept else np.full(clips, ABSENT_ROW)
        if is_read:
            own[f"digest_{name}"] = digests.take(pa.array(rows))
        else:
            own[f"digest_{name}"] = _digests(clips) if name in kept else [""] * clips
    own["digest_clip"] = _digests(clips)
    columns = {name: table[name] for name in ROW_SCHEMA.names} | own
    return pa.table(columns, schema=MANIFEST_SCHEMA)


def _digests(count: int) -> list[str]:
    letters = os.urandom(count * _DIGEST_BYTES).hex()
    width = 2 * _DIGEST_BYTES
    return [letters[k : k + width] for k in range(0, len(letters), width)]
