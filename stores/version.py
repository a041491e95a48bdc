"""What a store holds and what it is called: recipe, manifest of a version, store hash, HEAD."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from mmap import ACCESS_READ, mmap
from typing import Any, Literal

import blake3
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stores.atomic import update_whole, write_whole
from stores.errors import StoreFault
from stores.index import ROW_SCHEMA, ClipRecipe, ClipRow, row_from_dict, row_to_dict
from stores.place import Place, RemotePath
from stores.schema import ARRAYS
from stores.store_hash import canonical_digest, store_hash, table_hash

STORE_FORMAT = 1
"""Version of the layout in docs/store-format.md; a reader refuses a newer one."""
ABSENT_ROW = -1
"""Row number of a clip in an array that was not kept for it, or that is made when it is read."""
_HASH = re.compile(rb"[0-9a-f]{64}")
_WIDE_COLUMNS = {"ego", "exos", "frames"}


class VaeRecipe(BaseModel):
    """Which VAE made the latents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_name: str = Field(description="class of the VAE (paper 8.1.1: Wan2.1's)")
    weights_digest: str = Field(description="digest of its weights")
    config_digest: str = Field(description="digest of its configuration")


class StoreRecipe(BaseModel):
    """All that decides the numbers in a store, beside the videos. A store has one for life."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: ClipRecipe = Field(description="what a clip is")
    vae: VaeRecipe = Field(description="what encoded it")
    posterior: Literal["mode"] = Field(
        default="mode", description="which latent of the VAE's posterior"
    )
    normalisation: Literal["wan"] = Field(
        default="wan", description="(z - mean) / std of Wan2.1's VAE"
    )
    dtype: Literal["float16"] = Field(default="float16", description="type of latents and rays")
    rays: str = Field(
        default="plucker: moment xyz in metres, direction xyz; first exo view's frame (ego_rays), "
        "each exo view's frame (align_rays); pixel centres at +0.5",
        description="convention of the rays (paper 3.2)",
    )
    schema_version: Literal[1] = Field(default=1, description="version of the table of arrays")

    @property
    def digest(self) -> str:
        """blake3 of the recipe's canonical JSON."""
        return canonical_digest(self.model_dump(mode="json"))


@dataclass(frozen=True, eq=False)
class StoredClip(ClipRow):
    """A clip of a store: what the index says of it, and where and what its arrays are."""

    rows: dict[str, int]
    """Row number in each array; -1 if the array was not kept for this clip."""
    digests: dict[str, str]
    """blake3 of each array's row; empty if it was not kept. A digest without a row is that of
    rays which are made from the clip's cameras when they are read."""


class VersionRecord(BaseModel):
    """What is known of a version beside its clips."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(description="format of the store")
    hash: str = Field(description="the store hash: the version's name")
    parent: str | None = Field(description="hash of the version before it")
    clips: int = Field(description="clips in this version")
    when: str = Field(description="when it was committed, UTC")
    command: str = Field(description="which command committed it")
    recipe_digest: str = Field(description="digest of the recipe")
    index_digest: str = Field(description="digest of the clip index that was encoded last")
    manifest_digest: str = Field(description="blake3 of the manifest's bytes")


@dataclass(frozen=True, eq=False)
class Version:
    """One committed version: its record and its manifest, a row a clip, sorted by id."""

    record: VersionRecord
    path: Place
    table: pa.Table
    """The manifest without cameras and frames, which are nine tenths of it."""

    @cached_property
    def manifest(self) -> pa.Table:
        """The whole manifest; read when it is asked for."""
        return pq.read_table(pa.BufferReader(self.path.read_bytes()))

    def clips(self) -> list[StoredClip]:
        """All clips, in the order of their ids."""
        return [_clip_from_dict(plain) for plain in self.manifest.to_pylist()]

    def clip(self, number: int) -> StoredClip:
        """The clip at that place of the order."""
        return _clip_from_dict(self.manifest.slice(number, 1).to_pylist()[0])


def as_stored(row: ClipRow, rows: dict[str, int], digests: dict[str, str]) -> StoredClip:
    """The clip with its places; arrays that are not named were not kept."""
    everywhere = {name: rows.get(name, ABSENT_ROW) for name in ARRAYS}
    return StoredClip(
        **{name: getattr(row, name) for name in ClipRow.__dataclass_fields__},
        rows=everywhere,
        digests={name: digests.get(name, "") for name in ARRAYS},
    )


def clip_digest(row: ClipRow) -> str:
    """blake3 of what the index says of the clip: split, frames, cameras, as canonical JSON."""
    return canonical_digest(row_to_dict(row))


def write_version(
    store: Place,
    recipe: StoreRecipe,
    clips: Sequence[StoredClip],
    *,
    parent: str | None,
    command: str,
    index_digest: str,
) -> str:
    """Writes manifest and record of these clips unless they are there; returns the hash."""
    clips = sorted(clips, key=lambda clip: clip.clip_id)
    name = store_hash(recipe, [(c.clip_id, {**c.digests, "clip": clip_digest(c)}) for c in clips])
    record_path = _version_path(store, name, "json")
    if record_path.exists():
        return name
    manifest = _manifest_of(clips)
    record = VersionRecord(
        format=STORE_FORMAT,
        hash=name,
        parent=parent,
        clips=len(clips),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        recipe_digest=recipe.digest,
        index_digest=index_digest,
        manifest_digest=blake3.blake3(manifest).hexdigest(),
    )
    write_whole(_version_path(store, name, "parquet"), manifest)
    write_whole(record_path, record.model_dump_json(indent=2).encode())
    return name


def copy_version(store: Place, record: VersionRecord, clips: Sequence[StoredClip]) -> None:
    """Writes another store's version: the same clips, sorted by id, at other rows."""
    manifest = _manifest_of(clips)
    copy = record.model_copy(update={"manifest_digest": blake3.blake3(manifest).hexdigest()})
    write_whole(_version_path(store, record.hash, "parquet"), manifest)
    write_whole(_version_path(store, record.hash, "json"), copy.model_dump_json(indent=2).encode())


def read_version(store: Place, recipe: StoreRecipe, name: str) -> Version:
    """The version called `name`. Raises StoreFault if it was altered or is newer than we are."""
    path = _version_path(store, name, "json")
    try:
        plain = orjson.loads(path.read_bytes())
        check_format(path, plain.get("format"))
        record = VersionRecord.model_validate(plain)
        manifest_path = _version_path(store, name, "parquet")
        data = _manifest_data(manifest_path)
    except FileNotFoundError as missing:
        raise _altered(
            path, "the version's record and manifest", f"no {missing.filename}"
        ) from None
    except (orjson.JSONDecodeError, ValidationError, AttributeError) as foreign:
        raise _altered(path, "the record of a version", str(foreign)) from foreign
    got = blake3.blake3(memoryview(data), max_threads=blake3.blake3.AUTO).hexdigest()
    if got != record.manifest_digest:
        raise _altered(manifest_path, f"digest {record.manifest_digest[:12]}", got[:12])
    table = _narrow_table(data)
    named = table_hash(recipe, table)
    if named != name:
        raise _altered(manifest_path, f"clips and recipe of {name[:12]}", f"those of {named[:12]}")
    true = {"hash": name, "clips": len(table), "recipe_digest": recipe.digest}
    if record.model_copy(update=true) != record:
        raise _altered(path, str(true), str(record.model_dump(include=set(true))))
    return Version(record, manifest_path, table)


def read_head(store: Place) -> str | None:
    """Hash of the current version; None before the first commit. Raises StoreFault if damaged."""
    path = store / "HEAD"
    head = path.read_bytes().strip() if path.exists() else None
    if head is None or _HASH.fullmatch(head):
        return head.decode() if head else None
    raise StoreFault(
        "HEAD of the store is damaged; versions are not harmed.",
        where=path,
        expected="the hash of a version: 64 hex digits",
        got=repr(head[:80]),
        fix="Open STORE@HASH, or write one of the hashes in versions/ to HEAD.",
    )


def move_head(store: Place, parent: str | None, name: str) -> None:
    """Makes `name` the current version: the last step of a commit, and one that cannot be half.

    Raises StoreFault if `parent` is no longer the current version: somebody else has committed.
    """

    def move(text: bytes | None) -> bytes:
        head = text.decode().strip() if text else None
        if head not in (parent, name):
            raise StoreFault(
                "Somebody else has committed to this store meanwhile.",
                where=store / "HEAD",
                expected=f"{parent[:12]}, which {name[:12]} was made from" if parent else "no HEAD",
                got=(head or "no HEAD")[:12],
                fix="Run again: what both have committed is then together; nothing is lost.",
            )
        return f"{name}\n".encode()

    update_whole(store / "HEAD", move)


def list_versions(store: Place) -> list[str]:
    """Hashes of the committed versions, sorted."""
    return sorted(path.stem for path in (store / "versions").glob("*.json"))


def check_format(path: Place, found: object) -> None:
    """Raises StoreFault unless this code knows the format."""
    if not isinstance(found, int) or found > STORE_FORMAT:
        raise StoreFault(
            "This store was written by a newer version of exo2ego.",
            where=path,
            expected=f"store format up to {STORE_FORMAT}",
            got=found,
            fix="Upgrade exo2ego.",
        )


def _altered(path: Place, expected: str, got: str) -> StoreFault:
    return StoreFault(
        "A version of the store was altered or is incomplete; versions never change.",
        where=path,
        expected=expected,
        got=got,
        fix="Restore the file from a copy, or open another version with STORE@HASH.",
    )


def _version_path(store: Place, name: str, ending: str) -> Place:
    return store / "versions" / f"{name}.{ending}"


def _manifest_data(path: Place) -> pa.Buffer:
    """The file's bytes, mapped rather than read: most of them are never looked at."""
    if isinstance(path, RemotePath):
        return pa.py_buffer(path.read_bytes())
    with path.open("rb") as file:
        empty = os.fstat(file.fileno()).st_size == 0
        return pa.py_buffer(b"" if empty else mmap(file.fileno(), 0, access=ACCESS_READ))


def _narrow_table(data: pa.Buffer) -> pa.Table:
    reader = pq.ParquetFile(pa.BufferReader(data))
    names = [name for name in reader.schema_arrow.names if name not in _WIDE_COLUMNS]
    return reader.read(columns=names)


def manifest_bytes(table: pa.Table) -> bytes:
    """The manifest as a Parquet file."""
    sink = pa.BufferOutputStream()
    # digests are all different: a dictionary of them would be made in vain, and read in vain
    repeated: Any = [name for name in table.column_names if not name.startswith("digest_")]
    pq.write_table(table, sink, compression="zstd", use_dictionary=repeated)
    return sink.getvalue().to_pybytes()


def _manifest_of(clips: Sequence[StoredClip]) -> bytes:
    plain = [_clip_to_dict(clip) for clip in clips]
    return manifest_bytes(pa.Table.from_pylist(plain, schema=MANIFEST_SCHEMA))


def _clip_to_dict(clip: StoredClip) -> dict[str, Any]:
    rows = {f"row_{name}": clip.rows[name] for name in ARRAYS}
    digests = {f"digest_{name}": clip.digests[name] for name in ARRAYS}
    return row_to_dict(clip) | rows | digests | {"digest_clip": clip_digest(clip)}


def _clip_from_dict(plain: dict[str, Any]) -> StoredClip:
    rows = {name: plain.get(f"row_{name}", ABSENT_ROW) for name in ARRAYS}
    digests = {name: plain.get(f"digest_{name}", "") for name in ARRAYS}
    return as_stored(row_from_dict(plain), rows, digests)


MANIFEST_SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        *((f"row_{name}", pa.int64()) for name in ARRAYS),
        *((f"digest_{name}", pa.string()) for name in ARRAYS),
        ("digest_clip", pa.string()),
    ]
)
"""Columns of a version's manifest: the index's, and each array's row number and digest."""
