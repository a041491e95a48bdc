"""One writer at a time: a lock that says who writes; on a disk it dies with its process."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from stores.errors import StoreFault
from stores.place import Place, RemotePath

NAME = "lock"


def write_lock(folder: Place, what: str = "store") -> AbstractContextManager[None]:
    """Holds `folder`/lock. Raises StoreFault if another process, or another host, holds it.

    `what` is written there, in a word.

    On a disk the kernel frees the lock when its process dies, so one left behind on this host is
    taken over. On an object store the lock is an object that only one writer can create; one of a
    process of this host that is dead is taken over. A lock of another host cannot be judged from
    here: it must be removed by hand.
    """
    path = folder / NAME
    return _locked_object(path, what) if isinstance(path, RemotePath) else _locked_file(path, what)


@contextmanager
def _locked_file(path: Path, what: str) -> Iterator[None]:
    handle = _take(path, what)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def _locked_object(path: RemotePath, what: str) -> Iterator[None]:
    mine = _signature()
    try:
        path.create_bytes(mine)
    except FileExistsError:
        _take_over(path, mine, what)
    try:
        yield
    finally:
        # removed by hand meanwhile, it may be somebody else's by now
        if path.is_file() and path.read_bytes() == mine:
            path.unlink(missing_ok=True)


def _take_over(path: RemotePath, mine: bytes, what: str) -> None:
    """Replaces the lock of a process that is dead. Raises StoreFault if nobody can tell."""
    try:
        text, mark = path.read_marked()
        if text == mine:  # put, but the server's answer was lost
            return
        holder = _parse(text)
        if holder.get("host") == socket.gethostname() and not _lives(holder["pid"]):
            path.replace_bytes(mine, mark)
            return
    except FileNotFoundError:
        holder = {}  # released at this moment
    except FileExistsError:
        holder = {}  # taken over by another one at this moment
    raise _held(
        path,
        what,
        holder,
        "Wait until it has finished. If it is dead, remove the object: "
        f"`aws s3 rm {path}`, or with the server's own tool.",
    )


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _take(path: Path, what: str) -> int:
    while True:
        handle = _open(path, what)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(handle)
            os.close(handle)
            raise _held(path, what, holder, "Wait until it has finished, or stop it.") from None
        if not path.exists() or os.fstat(handle).st_ino != path.stat().st_ino:
            os.close(handle)  # its holder finished and removed the file meanwhile
            continue
        holder = _holder(handle)
        if holder and holder["host"] != socket.gethostname():
            os.close(handle)
            raise _held(path, what, holder, f"If nobody writes there any more, remove {path}.")
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, _signature(), 0)
        except OSError as refused:
            os.close(handle)  # open, it would keep the lock from the next attempt
            raise _unwritable(path, what, refused) from refused
        return handle


def _open(path: Path, what: str) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as refused:
        raise _unwritable(path, what, refused) from refused


def _unwritable(path: Path, what: str, refused: OSError) -> StoreFault:
    return StoreFault(
        f"A {what} cannot be written here.",
        where=path.parent,
        expected="a folder that can be written, with room",
        got=refused.strerror,
        fix=f"Give another path for the {what}, write permission, or make room.",
    )


def _signature() -> bytes:
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    return orjson.dumps(about)


def _holder(handle: int) -> dict[str, Any]:
    return _parse(os.pread(handle, 4096, 0))


def _parse(text: bytes) -> dict[str, Any]:
    """Who holds the lock; nothing if its writer died, or has not signed yet, or it is damaged."""
    try:
        holder = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    is_whole = isinstance(holder, dict) and holder.keys() >= {"pid", "host", "since"}
    return holder if is_whole and isinstance(holder["pid"], int) else {}


def _held(path: Place, what: str, holder: dict[str, Any], fix: str) -> StoreFault:
    who = "process {pid} on {host}, since {since}".format(**holder) if holder else "a process"
    return StoreFault(
        f"Somebody else is writing this {what}.",
        where=path,
        expected="one writer at a time",
        got=who,
        fix=fix,
    )
