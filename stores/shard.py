"""The bytes of one Zarr v3 shard: writing it, parsing its index, reading rows in one call each.

A shard holds `rows` clips of one array. Each clip is one or more pieces (inner chunks): one
if it is only ever read whole, else one a frame. Pieces lie in C order, each followed by its
crc32c; the index (offset and length of every piece, then its crc32c) is at the end of the file.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numcodecs.blosc import BITSHUFFLE, SHUFFLE, Blosc

from stores.atomic import whole_file
from stores.checksums import CRC_BYTES, checksum
from stores.errors import StoreFault
from stores.place import Place

ABSENT = 2**64 - 1
"""Offset and length of a piece that was never written."""
BLOSC: dict[str, Any] = {"cname": "zstd", "clevel": 4, "blocksize": 2**23}
"""Codec of compressed arrays. Choice: level 4 packs rays as tightly as 5, in three quarters of the
time; one block for a whole row of the paper's size finds what its frames share (docs/scaling.md).
"""
ALTERED = "the data do not match their checksum (altered)"
_MOST_BUFFERS = 512  # an even number below IOV_MAX, which is 1024 on Linux and macOS


class ShardDamage(OSError):
    """A shard that is missing, cut short or altered. `position` is the row, if it is one row."""

    def __init__(self, reason: str, position: int | None = None):
        self.reason, self.position = reason, position
        super().__init__(reason)


@dataclass(frozen=True)
class ShardLayout:
    """How one shard of one array is cut."""

    rows: int
    """Clips a shard."""
    row_shape: tuple[int, ...]
    dtype: str
    pieces: int
    """Inner chunks a clip, cut along the row's outermost axis."""
    compressed: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one clip, unpacked."""
        return math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    @property
    def piece_bytes(self) -> int:
        """Bytes of one piece, unpacked."""
        return self.row_bytes // self.pieces

    @property
    def index_bytes(self) -> int:
        """Bytes of the index with its checksum."""
        return self.rows * self.pieces * 16 + CRC_BYTES

    def row_view(self, row: np.ndarray) -> np.ndarray:
        """The row's canonical bytes: C order, little endian. No copy if they lie so already."""
        ordered = np.ascontiguousarray(row, dtype=np.dtype(self.dtype).newbyteorder("<"))
        return ordered.reshape(-1).view(np.uint8)


def write_shard_file(
    path: Place, layout: ShardLayout, rows: Iterable[tuple[int, np.ndarray]]
) -> int:
    """Writes (position, row) pairs as one whole shard; returns its length in bytes.

    The same rows always give the same bytes. Positions that do not occur stay absent.
    """
    index = np.full((layout.rows, layout.pieces, 2), ABSENT, dtype="<u8")
    offset = 0
    with whole_file(path) as file:
        for position, row in rows:
            for number, piece in enumerate(layout.row_view(row).reshape(layout.pieces, -1)):
                payload = _pack(layout, piece)
                file.write(payload)
                file.write(checksum(payload).to_bytes(CRC_BYTES, "little"))
                index[position, number] = (offset, len(payload) + CRC_BYTES)
                offset += len(payload) + CRC_BYTES
        footer = index.tobytes()
        file.write(footer + checksum(footer).to_bytes(CRC_BYTES, "little"))
    return offset + layout.index_bytes


@runtime_checkable
class ByteSource(Protocol):
    """An open file or object. Safe to read from many threads."""

    def fill(self, buffers: Sequence[Any], offset: int) -> int:
        """Fills the buffers with what lies from there on; returns the bytes that there were."""
        ...

    def read_end(self, length: int) -> tuple[bytes, int]:
        """The last bytes, and the length of the whole."""
        ...


class ShardFile:
    """An open shard whose index has been read once. Safe to read from many threads."""

    def __init__(self, source: ByteSource, layout: ShardLayout, *, check: bool = True):
        self.layout, self.check, self._source = layout, check, source
        size = layout.piece_bytes
        self._stride = size + CRC_BYTES
        self._cuts, self._sum_cuts = (
            [slice(k * step, (k + 1) * step) for k in range(layout.pieces)]
            for step in (size, CRC_BYTES)
        )
        self._index = self._read_index()
        self._starts = self._starts_of_plain_rows()

    def read_row(self, position: int, out: np.ndarray, *, pieces: int) -> tuple[int, ...]:
        """Reads the first `pieces` pieces of a row into `out`, uint8 and as long as they are.

        Returns the checksums that they ought to have, for the caller to compare; none if they
        were compared already, or are not to be.
        """
        start = self._starts[position]
        if start is not None:
            return self._read_together(position, start, out.data, pieces)
        entries = self._index[position, :pieces]
        if np.any(entries[:, 0] == ABSENT):
            raise ShardDamage("the row was never written", position)
        targets = out.reshape(pieces, -1)
        if not self.layout.compressed:
            return self._read_plain(position, entries, targets)
        for (offset, length), target in zip(entries.tolist(), targets, strict=True):
            self._read_packed(position, offset, length, target)
        return ()

    def _read_index(self) -> np.ndarray:
        layout = self.layout
        footer, size = self._source.read_end(layout.index_bytes)
        if size < layout.index_bytes:
            raise ShardDamage(f"the file is cut short: {size} bytes are less than its index")
        self._data_bytes = size - layout.index_bytes
        stored = int.from_bytes(footer[-CRC_BYTES:], "little")
        if checksum(footer[:-CRC_BYTES]) != stored:
            raise ShardDamage("the index does not match its checksum (altered, or cut short)")
        index = np.frombuffer(footer[:-CRC_BYTES], dtype="<u8")
        index = index.reshape(layout.rows, layout.pieces, 2)
        used = index[..., 0] != ABSENT
        if np.any(index[used].sum(axis=-1) > self._data_bytes):
            raise ShardDamage("the index points behind the end of the file")
        return index

    def _starts_of_plain_rows(self) -> list[int | None]:
        """For each row: its offset, if its pieces lie one behind the other as ours are written."""
        layout, stride = self.layout, self._stride
        if layout.compressed or 2 * layout.pieces > _MOST_BUFFERS:
            return [None] * layout.rows
        offsets, lengths = self._index[..., 0], self._index[..., 1]
        together = (lengths == stride).all(axis=1)
        together &= (np.diff(offsets, axis=1) == stride).all(axis=1)
        together &= (offsets != ABSENT).all(axis=1)
        return [
            start if is_together else None
            for start, is_together in zip(offsets[:, 0].tolist(), together.tolist(), strict=True)
        ]

    def _read_together(
        self, position: int, start: int, out: memoryview, pieces: int
    ) -> tuple[int, ...]:
        """Payloads straight into `out`, checksums beside them, in one call."""
        sums = bytearray(CRC_BYTES * pieces)
        beside = memoryview(sums)
        buffers: list[Any] = [None] * (2 * pieces)
        buffers[::2] = [out[cut] for cut in self._cuts[:pieces]]
        buffers[1::2] = [beside[cut] for cut in self._sum_cuts[:pieces]]
        fill_row(self._source, position, buffers, start, pieces * self._stride)
        return self._checksums(sums)

    def _read_plain(
        self, position: int, entries: np.ndarray, targets: np.ndarray
    ) -> tuple[int, ...]:
        """Pieces that lie anywhere, one call each."""
        if np.any(entries[:, 1] != self.layout.piece_bytes + CRC_BYTES):
            raise ShardDamage("a piece has the wrong length", position)
        sums = bytearray(CRC_BYTES * len(entries))
        beside = memoryview(sums)
        for (offset, length), target, cut in zip(
            entries.tolist(), targets, self._sum_cuts, strict=False
        ):
            fill_row(self._source, position, [target, beside[cut]], offset, length)
        return self._checksums(sums)

    def _checksums(self, stored: bytearray) -> tuple[int, ...]:
        return struct.unpack(f"<{len(stored) // CRC_BYTES}I", stored) if self.check else ()

    def _read_packed(self, position: int, offset: int, length: int, target: np.ndarray) -> None:
        packed = np.empty(length, dtype=np.uint8)
        fill_row(self._source, position, [packed], offset, length)
        payload = packed[:-CRC_BYTES]
        # always: a decompressor must never see altered bytes
        if checksum(payload.data) != int.from_bytes(packed[-CRC_BYTES:].tobytes(), "little"):
            raise ShardDamage(ALTERED, position)
        try:
            plain = Blosc().decode(payload, out=target)
        except (RuntimeError, ValueError) as foreign:
            raise ShardDamage(f"a piece cannot be unpacked: {foreign}", position) from foreign
        if plain.nbytes != self.layout.piece_bytes:
            raise ShardDamage("a piece has the wrong length", position)


def fill_row(
    source: ByteSource, position: int, buffers: Sequence[Any], offset: int, wanted: int
) -> None:
    """Fills the buffers with a row's bytes. Raises ShardDamage unless all of them are there."""
    try:
        got = source.fill(buffers, offset)
    except StoreFault:  # a server that refuses, or is away: no damage
        raise
    except OSError as refused:
        raise ShardDamage(f"the disk refuses ({refused.strerror})", position) from refused
    if got != wanted:
        raise ShardDamage("the file is cut short", position)


def shuffle_of(dtype: str) -> Literal["shuffle", "bitshuffle"]:
    """How blosc orders numbers before packing: float16 rays by bytes, pixels by bits."""
    return "shuffle" if np.dtype(dtype).itemsize > 1 else "bitshuffle"


def _pack(layout: ShardLayout, piece: np.ndarray) -> bytes | memoryview:
    if not layout.compressed:
        return piece.data
    shuffle = SHUFFLE if shuffle_of(layout.dtype) == "shuffle" else BITSHUFFLE
    codec = Blosc(**BLOSC, shuffle=shuffle)
    return bytes(codec.encode(piece.view(layout.dtype)))
