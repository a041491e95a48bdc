"""One writer at a time: a lock file that says who writes, and that dies with its process."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from stores.errors import StoreFault


@contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Holds `folder`/lock. Raises StoreFault if another process, or another host, holds it.

    The kernel frees the lock when its process dies, so one left behind on this host is taken
    over. A lock of another host cannot be judged from here: its file must be removed by hand.
    """
    path = folder / "lock"
    handle = _take(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _take(path: Path) -> int:
    while True:
        handle = _open(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(handle)
            os.close(handle)
            raise _held(path, holder, "Wait until it has finished, or stop it.") from None
        if not path.exists() or os.fstat(handle).st_ino != path.stat().st_ino:
            os.close(handle)  # its holder finished and removed the file meanwhile
            continue
        holder = _holder(handle)
        if holder and holder["host"] != socket.gethostname():
            os.close(handle)
            raise _held(path, holder, f"If nobody writes there any more, remove {path}.")
        _sign(handle)
        return handle


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as refused:
        raise StoreFault(
            "A store cannot be written here.",
            where=path.parent,
            expected="a folder that can be written",
            got=refused.strerror,
            fix="Give another path for the store, or write permission.",
        ) from refused


def _sign(handle: int) -> None:
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    os.ftruncate(handle, 0)
    os.pwrite(handle, orjson.dumps(about), 0)


def _holder(handle: int) -> dict[str, Any]:
    text = os.pread(handle, 4096, 0)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # its writer died, or has not signed yet
        return {}


def _held(path: Path, holder: dict[str, Any], fix: str) -> StoreFault:
    who = "process {pid} on {host}, since {since}".format(**holder) if holder else "a process"
    return StoreFault(
        "Somebody else is writing this store.",
        where=path,
        expected="one writer at a time",
        got=who,
        fix=fix,
    )
