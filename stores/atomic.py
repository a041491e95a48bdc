"""Files that appear whole or not at all: renamed when flushed, or an object put in one request."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO, cast

from stores.errors import StoreFault, UserFault
from stores.place import Place, RemotePath

PARTIAL = ".partial"
"""Ending of files that are not finished; anybody may remove them while nobody writes."""
_ATTEMPTS = 20  # of an update that others keep crossing


@contextmanager
def disk_faults(path: Place) -> Iterator[None]:
    """Turns what the disk refuses into a StoreFault."""
    try:
        yield
    except UserFault:
        raise
    except OSError as refused:
        raise StoreFault(
            "The disk refuses.",
            where=refused.filename or path,
            expected="a folder that can be written, with room for what is written",
            got=refused.strerror or str(refused),
            fix="Make room or name another folder, and run again; what is finished is kept.",
        ) from refused


@contextmanager
def whole_file(path: Place) -> Iterator[BinaryIO]:
    """A file to write that takes the name `path` only once all of it is there."""
    if isinstance(path, RemotePath):
        with tempfile.TemporaryFile() as file:
            yield cast(BinaryIO, file)
            path.write_bytes(_mapped(cast(BinaryIO, file)))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def staged(folder: Place) -> Iterator[Place]:
    """Where to write files that belong into `folder` together: the folder itself on a disk.

    For an object store it is a local one, put there file by file once all of them are whole, and
    never in the place of another object: a lock may be removed by hand while its writer lives.
    Raises StoreFault if one is there already, unless it is the same, as it is if a lost answer
    of the server, or a lost worker, has work done twice.
    """
    if not isinstance(folder, RemotePath):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="exo2ego-") as local:
        yield Path(local)
        for path in sorted(path for path in Path(local).rglob("*") if path.is_file()):
            with path.open("rb") as file:
                _put_new(folder / str(path.relative_to(local)), _mapped(file))


def write_whole(path: Place, data: bytes) -> None:
    """Writes `data` so that a reader sees the old file or the new one, never half of it."""
    if isinstance(path, RemotePath):
        path.write_bytes(data)
        return
    with whole_file(path) as file:
        file.write(data)


def update_whole(path: Place, change: Callable[[bytes | None], bytes]) -> None:
    """Puts `change` of the file's bytes in their place; None stands for a file that is not there.

    On an object store nothing that somebody else writes meanwhile is lost: `change` is asked again.
    Nothing is written if it changes nothing, or raises.
    """
    if not isinstance(path, RemotePath):
        old = path.read_bytes() if path.exists() else None
        new = change(old)
        if new != old:
            write_whole(path, new)
        return
    for _ in range(_ATTEMPTS):
        try:
            old, mark = path.read_marked()
        except FileNotFoundError:
            old, mark = None, ""
        new = change(old)
        if new == old:
            return
        try:
            path.create_bytes(new) if old is None else path.replace_bytes(new, mark)
        except FileExistsError:
            continue
        return
    raise _written_by_another(path)


def sync_folder(folder: Place) -> None:
    """Flushes the names in a folder to the disk; a rename alone may be lost with the power."""
    if isinstance(folder, RemotePath):
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partials(folder: Place) -> None:
    """Removes what writers that were killed left below `folder`; an object store has no such."""
    if isinstance(folder, RemotePath):
        return
    for partial in folder.rglob("*" + PARTIAL):
        partial.unlink(missing_ok=True)


def _put_new(path: RemotePath, data: bytes | mmap) -> None:
    try:
        path.create_bytes(data)
    except FileExistsError as other:
        if path.read_bytes() != bytes(data):
            raise _written_by_another(path) from other


def _mapped(file: BinaryIO) -> bytes | mmap:
    """The file's bytes, without a copy in memory."""
    file.flush()
    empty = os.fstat(file.fileno()).st_size == 0
    return b"" if empty else mmap(file.fileno(), 0, access=ACCESS_READ)


def _written_by_another(path: RemotePath) -> StoreFault:
    return StoreFault(
        "Somebody else is writing this store, in spite of the lock.",
        where=path,
        expected="one writer at a time",
        got="an object that this run has not written",
        fix="Stop the other writer, then run again; nothing that was committed is harmed.",
    )
