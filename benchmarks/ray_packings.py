"""Ways to pack a clip's rays: as our own code does it, and as Zarr v3 says it to other readers."""

import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
import zarr
from numcodecs import Delta, Zlib, Zstd
from numcodecs.abc import Codec
from numcodecs.blosc import BITSHUFFLE, NOSHUFFLE, SHUFFLE, Blosc
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.codecs import numcodecs as zarr_numcodecs

AS_STORED = "T 6 H W"
_SHUFFLES = {"bit": BITSHUFFLE, "byte": SHUFFLE, "no": NOSHUFFLE}
_ZARR_SHUFFLES = {"bit": "bitshuffle", "byte": "shuffle", "no": "noshuffle"}
_MIB = 2**20


@dataclass(frozen=True)
class Packing:
    """A chain of codecs."""

    name: str
    axes: str = AS_STORED
    """Order of the axes in which the numbers are packed."""
    codecs: tuple[Codec, ...] = ()
    """Of numcodecs, first to last."""
    zarr: dict[str, Any] = field(default_factory=dict)
    """The same as arguments of `zarr.create_array`."""

    @property
    def order(self) -> tuple[int, ...]:
        """The axes' places in the stored row."""
        stored = AS_STORED.split()
        return tuple(stored.index(axis) for axis in self.axes.split())

    def pack(self, rays: np.ndarray) -> bytes:
        """The packed row."""
        packed: Any = np.ascontiguousarray(rays.transpose(self.order))
        for codec in self.codecs:
            packed = codec.encode(packed)
        return bytes(packed)

    def unpack(self, packed: bytes, like: np.ndarray) -> np.ndarray:
        """The row again, in C order; `like` has its shape and type."""
        plain: Any = packed
        for codec in reversed(self.codecs):
            plain = codec.decode(plain)
        shape = [like.shape[axis] for axis in self.order]
        rays = np.frombuffer(plain, like.dtype).reshape(shape)
        return np.ascontiguousarray(rays.transpose(np.argsort(self.order)))


def packings() -> list[Packing]:
    """All that are compared."""
    with warnings.catch_warnings():  # numcodecs warns of chains that only zarr-python reads
        warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3")
        return list(_packings())


def _packings() -> Iterator[Packing]:
    yield Packing("none")
    for level in (1, 3, 4, 5, 9):
        for shuffle in ("bit", "byte", "no"):
            if level < 9 or shuffle == "byte":
                yield _blosc("zstd", level, shuffle)
    for shuffle in ("bit", "byte"):
        yield _blosc("lz4", 5, shuffle)
    for block_mib in (1, 4, 8):
        for level in (3, 4, 5):
            yield _blosc("zstd", level, "byte", block_mib=block_mib)
    for axes in ("6 H W T", "6 T H W", "6 H T W"):
        yield _blosc("zstd", 5, "byte", axes=axes)
    yield _blosc("zstd", 3, "byte", block_mib=4, axes="6 T H W")
    yield Packing("zstd 3", codecs=(Zstd(3),), zarr={"compressors": [ZstdCodec(level=3)]})
    yield Packing("zlib 6", codecs=(Zlib(6),), zarr={"compressors": [GzipCodec(level=6)]})
    yield _delta()
    if importlib.util.find_spec("pcodec"):
        yield _pcodec()


def readers_of(packing: Packing, rays: np.ndarray, folder: Path) -> list[str]:
    """Which libraries read the row from a Zarr v3 array of this packing, bit for bit."""
    array = zarr.create_array(
        folder,
        shape=(1, *rays.shape),
        dtype=rays.dtype,
        chunks=(1, *rays.shape),
        fill_value=float("nan"),
        **{"serializer": BytesCodec(endian="little"), "compressors": [], **packing.zarr},
    )
    array[0] = rays
    found = []
    if np.array_equal(np.asarray(zarr.open_array(folder, mode="r")[0]), rays):
        found.append("zarr-python")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    try:
        theirs = tensorstore.open(spec).result()[0].read().result()
    except (ValueError, NotImplementedError):
        return found
    return [*found, "tensorstore"] if np.array_equal(theirs, rays) else found


def _blosc(
    cname: str, level: int, shuffle: str, *, block_mib: int = 0, axes: str = AS_STORED
) -> Packing:
    words = f"blosc {cname} {level}, {shuffle} shuffle"
    words += f", blocks of {block_mib} MiB" * bool(block_mib) + f", {axes}" * (axes != AS_STORED)
    packing = Packing("", axes)
    order = (0, *(1 + axis for axis in packing.order))
    codec = BloscCodec(
        cname=cname,
        clevel=level,
        shuffle=_ZARR_SHUFFLES[shuffle],  # pyright: ignore[reportArgumentType]
        typesize=np.dtype(np.float16).itemsize,
        blocksize=block_mib * _MIB,
    )
    return Packing(
        words,
        axes,
        (Blosc(cname, level, _SHUFFLES[shuffle], block_mib * _MIB),),
        {
            "compressors": [codec],
            "filters": [TransposeCodec(order=order)] if axes != AS_STORED else [],
        },
    )


def _delta() -> Packing:
    """Differences of the numbers' bits: those of the numbers would not be exact."""
    shuffled = _blosc("zstd", 3, "byte")
    return Packing(
        f"difference along W, {shuffled.name}",
        codecs=(Delta("<u2"), *shuffled.codecs),
        zarr={**shuffled.zarr, "filters": [zarr_numcodecs.Delta(dtype="<u2")]},
    )


def _pcodec() -> Packing:
    from numcodecs.pcodec import PCodec  # needs a wheel of its own

    return Packing(
        "PCodec 8",
        codecs=(PCodec(level=8),),
        zarr={"serializer": zarr_numcodecs.PCodec(level=8)},
    )
