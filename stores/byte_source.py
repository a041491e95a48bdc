"""Where the bytes of an open shard come from: a local file, or ranges of an object."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stores.place import Place, RemotePath
from stores.shard import ByteSource, ShardDamage


def open_bytes(path: Place) -> ByteSource:
    """The file or object, open. Raises ShardDamage if a file cannot be opened; objects say so
    when they are read."""
    return ObjectBytes(path) if isinstance(path, RemotePath) else FileBytes(path)


class FileBytes:
    """A local file, read with preadv."""

    def __init__(self, path: Path):
        self._handle = -1
        try:
            self._handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as missing:
            raise ShardDamage("the file is missing") from missing
        except OSError as refused:
            raise ShardDamage(f"the file cannot be opened ({refused.strerror})") from refused

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def fill(self, buffers: Sequence[Any], offset: int) -> int:
        """Fills the buffers with what lies from there on; returns the bytes that there were."""
        return os.preadv(self._handle, buffers, offset)

    def read_end(self, length: int) -> tuple[bytes, int]:
        """The last bytes, and the length of the whole."""
        size = os.fstat(self._handle).st_size
        return os.pread(self._handle, length, max(size - length, 0)), size


class ObjectBytes:
    """An object, read a range a request."""

    def __init__(self, path: RemotePath):
        self._path = path

    def fill(self, buffers: Sequence[Any], offset: int) -> int:
        """Fills the buffers with what lies from there on; returns the bytes that there were."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        data = memoryview(self._path.read_range(offset, sum(len(view) for view in views)))
        first = 0
        for view in views:
            part = data[first : first + len(view)]
            view[: len(part)] = part
            first += len(view)
        return len(data)

    def read_end(self, length: int) -> tuple[bytes, int]:
        """The last bytes, and the length of the whole, in one request."""
        try:
            return self._path.read_end(length)
        except FileNotFoundError as missing:
            raise ShardDamage("the file is missing") from missing
