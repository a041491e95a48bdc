"""One Zarr v3 group of arrays, cut into shards along the clips: metadata, writing, reading."""

import math
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import blake3
import numpy as np
import orjson
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec
from zarr.storage import MemoryStore

from stores.atomic import update_whole, write_whole
from stores.batch_memory import BatchMemory
from stores.byte_source import open_bytes
from stores.checksums import first_other
from stores.errors import StoreFault
from stores.place import Place, RemotePath
from stores.row_check import check_row
from stores.schema import ArraySpec, ClipShape
from stores.shard import (
    ALTERED,
    BLOSC,
    ShardDamage,
    ShardFile,
    ShardLayout,
    shuffle_of,
    write_shard_file,
)

_FILES_SHARE, _MOST_OPEN = 8, 4096  # an array takes an eighth of the files that may be open


Witnesses = Callable[[int], Sequence[tuple[int, str]]]
"""Some rows of a shard, with the digests that they ought to have."""


class RowDamage(OSError):
    """Rows that cannot be read: which shard of the array, which row if it is one, and why."""

    def __init__(self, shard: int, row: int | None, reason: str):
        self.shard, self.row, self.reason = shard, row, reason
        super().__init__(reason)


@runtime_checkable
class RowFile(Protocol):
    """An open shard of any container; raises ShardDamage when a row cannot be read."""

    def read_row(self, position: int, out: np.ndarray, *, pieces: int) -> tuple[int, ...]:
        """Fills `out`, uint8, with the first `pieces` pieces of a row.

        Returns their crc32c where they have some that were not compared yet."""
        ...


def shard_layout(spec: ArraySpec, clip: ClipShape, clips_per_shard: int) -> ShardLayout:
    """How the array's shards are cut for clips of this shape."""
    row_shape = spec.row_shape(clip)
    pieces = row_shape[0] if spec.frames_apart else 1
    return ShardLayout(clips_per_shard, row_shape, spec.dtype, pieces, spec.compressed)


def shard_path(group: Place, spec: ArraySpec, shard: int) -> Place:
    """Where Zarr v3 keeps the shard: c/<shard>/0/0/..., a zero for every axis of a row."""
    return group.joinpath(spec.name, "c", str(shard), *["0"] * len(spec.axes.split()))


def create_group(
    group: Place, specs: Iterable[ArraySpec], clip: ClipShape, clips_per_shard: int
) -> None:
    """Writes the metadata of a group of arrays without rows; what exists already is kept."""
    for spec in specs:
        path = group / spec.name / "zarr.json"
        if not path.exists():
            write_whole(path, _array_metadata(spec, clip, clips_per_shard))
    if not (group / "zarr.json").exists():
        about = {"zarr_format": 3, "node_type": "group", "attributes": {}}
        write_whole(group / "zarr.json", orjson.dumps(about, option=orjson.OPT_INDENT_2))


def grow_group(group: Place, names: Iterable[str], rows: int) -> None:
    """Lengthens the arrays to `rows` clips, each in one step; never shortens them."""

    def lengthen(text: bytes | None) -> bytes:
        if _rows_said(path, text or b"") >= rows:
            return text or b""
        about = orjson.loads(text or b"")
        about["shape"][0] = rows
        return orjson.dumps(about, option=orjson.OPT_INDENT_2)

    for path in (group / name / "zarr.json" for name in names):
        update_whole(path, lengthen)


def group_rows(group: Place, names: Iterable[str]) -> int:
    """Length of the longest array of the group, in clips."""
    paths = [group / name / "zarr.json" for name in names]
    return max(_rows_said(path, path.read_bytes()) for path in paths)


def _rows_said(path: Place, text: bytes) -> int:
    """Length of the array that a zarr.json describes. Raises StoreFault if it is damaged."""
    try:
        return int(orjson.loads(text)["shape"][0])
    except (ValueError, KeyError, TypeError, IndexError) as foreign:
        raise StoreFault(
            "The metadata of an array cannot be read; its rows are not harmed, and still read.",
            where=path,
            expected="JSON of a Zarr v3 array, with its shape",
            got=str(foreign),
            fix="Restore the file from a copy, or from another store of the same recipe.",
        ) from foreign


def free_shard(group: Place, names: Iterable[str]) -> int:
    """The first number above all shards that lie in the group, those of killed writers too.

    Choice: asked on an object store only, where a shard never takes another one's place.
    """
    folders = [group / name / "c" for name in names if isinstance(group, RemotePath)]
    found = [int(path.name) for folder in folders for path in folder.iterdir()]
    return max(found, default=-1) + 1


def write_array_shard(
    group: Place,
    spec: ArraySpec,
    clip: ClipShape,
    clips_per_shard: int,
    shard: int,
    rows: Iterable[np.ndarray],
) -> list[str]:
    """Writes the rows as the shard's first ones, whole or not at all; returns their digests.

    Raises StoreFault for a row of another shape or type, or one that holds NaN or infinity, but
    for whole exo views that are absent.
    """
    layout, digests = shard_layout(spec, clip, clips_per_shard), []

    def checked() -> Iterator[tuple[int, np.ndarray]]:
        for position, row in enumerate(rows):
            check_row(group, spec, layout, row)
            digests.append(row_digest(layout, row))
            yield position, row

    write_shard_file(shard_path(group, spec, shard), layout, checked())
    return digests


def digest_rows(
    group: Place,
    spec: ArraySpec,
    clip: ClipShape,
    clips_per_shard: int,
    rows: Iterable[np.ndarray],
) -> list[str]:
    """Digests of rows that are not written; refuses what `write_array_shard` refuses."""
    layout, digests = shard_layout(spec, clip, clips_per_shard), []
    for row in rows:
        check_row(group, spec, layout, row)
        digests.append(row_digest(layout, row))
    return digests


def row_digest(layout: ShardLayout, row: np.ndarray) -> str:
    """blake3 of the row's canonical bytes: little endian, C order, unpacked."""
    return blake3.blake3(layout.row_view(row).data).hexdigest()


class ArrayReader:
    """Reads rows of one array, many at a time, into one buffer."""

    def __init__(
        self,
        group: Place,
        spec: ArraySpec,
        layout: ShardLayout,
        *,
        check: bool = True,
        witnesses: Witnesses | None = None,
    ):
        self.spec, self.layout = spec, layout
        self._group, self._check = group, check
        self._witnesses, self._recognised = witnesses if check else None, set[int]()
        self._dtype = np.dtype(layout.dtype).newbyteorder("<")
        self._open: OrderedDict[int, RowFile] = OrderedDict()
        self._lock = threading.Lock()
        self._memory = BatchMemory()
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # below 0: any number
        self._most_open = min(allowed // _FILES_SHARE if allowed >= 0 else _MOST_OPEN, _MOST_OPEN)

    def read(
        self,
        rows: Sequence[int],
        *,
        first_frame: bool = False,
        memory: BatchMemory | None = None,
    ) -> np.ndarray:
        """The rows, stacked, in `memory`; with `first_frame` only step 0 of their outermost axis.

        Raises RowDamage if a shard is missing, cut short or altered.
        """
        pieces = 1 if first_frame else self.layout.pieces
        shape = self.layout.row_shape[1:] if first_frame else self.layout.row_shape
        out = (memory or self._memory).array((len(rows), *shape), self._dtype)
        flat = out.reshape(len(rows), math.prod(shape)).view(np.uint8)
        checksums: list[int] = []
        for row, target in zip(rows, flat, strict=True):
            shard, position = divmod(row, self.layout.rows)
            try:
                checksums += self._shard(shard).read_row(position, target, pieces=pieces)
            except ShardDamage as damage:
                damaged = None if damage.position is None else row
                raise RowDamage(shard, damaged, damage.reason) from damage
        altered = first_other(flat.reshape(-1).data, checksums)
        if altered is not None:
            row = rows[altered // pieces]
            raise RowDamage(self.shard_of(row), row, ALTERED)
        return out

    def shard_of(self, row: int) -> int:
        """Number of the shard that holds the row."""
        return row // self.layout.rows

    def file_of(self, shard: int) -> Place:
        """The file that holds the shard."""
        return shard_path(self._group, self.spec, shard)

    def open_file(self, shard: int) -> RowFile:
        """The shard, open. Raises ShardDamage if it cannot be."""
        return ShardFile(open_bytes(self.file_of(shard)), self.layout, check=self._check)

    def _shard(self, shard: int) -> RowFile:
        found = self._open.get(shard)
        if found is not None:
            return found
        # outside the lock, so that the threads open their shards at the same time
        opened = self.open_file(shard)
        if self._witnesses and shard not in self._recognised:
            self._recognise(opened, self._witnesses(shard))
            self._recognised.add(shard)
        with self._lock:
            self._open[shard] = opened
            if len(self._open) > self._most_open:
                self._open.popitem(last=False)
        return opened

    def _recognise(self, file: RowFile, witnesses: Sequence[tuple[int, str]]) -> None:
        """Raises ShardDamage if none of these rows is what it should be: another file lies here.

        A shard that was exchanged with another has checksums that are all right. A row that is
        damaged by itself says nothing: whoever asks for it is told.
        """
        others = 0
        for row, digest in witnesses:
            target = self._memory.array(self.layout.row_shape, self._dtype)
            flat = target.reshape(-1).view(np.uint8)
            position, pieces = row % self.layout.rows, self.layout.pieces
            try:
                checksums = file.read_row(position, flat, pieces=pieces)
            except ShardDamage:
                continue
            if first_other(flat.data, checksums) is not None:
                continue
            if row_digest(self.layout, target) == digest:
                return
            others += 1
        if others:
            raise ShardDamage("it holds other rows than the manifest says (exchanged or restored)")


def open_readers(
    group: Place,
    specs: Mapping[str, ArraySpec],
    clip: ClipShape,
    clips_per_shard: int,
    *,
    check: bool = True,
    witnesses: Callable[[str, int], Sequence[tuple[int, str]]] | None = None,
) -> dict[str, ArrayReader]:
    """A reader for every array of the group; `witnesses` by the array's name and the shard."""
    layouts = {name: shard_layout(spec, clip, clips_per_shard) for name, spec in specs.items()}
    return {
        name: ArrayReader(
            group,
            spec,
            layouts[name],
            check=check,
            witnesses=partial(witnesses, name) if witnesses else None,
        )
        for name, spec in specs.items()
    }


def _array_metadata(spec: ArraySpec, clip: ClipShape, clips_per_shard: int) -> bytes:
    """zarr.json as zarr-python writes it, so that any Zarr v3 reader opens the array."""
    memory: dict[str, Buffer] = {}
    dtype, row_shape = np.dtype(spec.dtype), spec.row_shape(clip)
    blosc = BloscCodec(**BLOSC, shuffle=shuffle_of(spec.dtype), typesize=dtype.itemsize)
    zarr.create_array(
        MemoryStore(memory),
        shape=(0, *row_shape),
        dtype=dtype,
        chunks=(1, *spec.chunk_shape(clip)),
        shards=(clips_per_shard, *row_shape),
        serializer=BytesCodec(endian="little"),
        compressors=[*([blosc] if spec.compressed else []), Crc32cCodec()],
        fill_value=float("nan") if dtype.kind == "f" else 0,
        dimension_names=["clip", *spec.axes.split()],
        attributes={"meaning": spec.meaning},
    )
    return memory["zarr.json"].to_bytes()
