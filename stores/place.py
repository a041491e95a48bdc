"""Where a store lies: a local path, or a URL of an object store that is used like one.

An object appears whole when its one PUT is done, or not at all. Folders are only the beginnings
of names. Nothing is listed or kept from earlier: each call asks the server.
"""

import errno
import fnmatch
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap
from pathlib import Path, PurePosixPath
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import ObjectStore, from_url

from stores.errors import StoreFault

SCHEMES = ("s3", "gs", "az")
"""What a URL may begin with; the tests run against s3."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
RETRIES = 10
"""Of one request, with growing pauses: a network may be away for a minute."""
_TIMEOUT = "30 minutes"  # of one request: a shard may be half a gigabyte on a slow line
_READ_AHEAD = 2**16  # bytes of a request of an opened object
_SAID = 240  # characters of a server's answer that a fault repeats


class RemotePath(PurePosixPath):
    """An object, or the beginning of names of objects; all of `Path` that stores use.

    Raises FileNotFoundError and FileExistsError as a disk does, and StoreFault for what else the
    server refuses. May be pickled; connections are each process's own.
    """

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def read_bytes(self) -> bytes:
        """The whole object."""
        with _told(self):
            return bytes(self._get().bytes())

    def read_text(self) -> str:
        """The whole object, UTF-8."""
        return self.read_bytes().decode()

    def read_marked(self) -> tuple[bytes, str]:
        """The whole object, and the mark (ETag) that is another one after any other write."""
        with _told(self):
            found = self._get()
            return bytes(found.bytes()), found.meta["e_tag"] or ""

    def read_range(self, offset: int, length: int) -> bytes:
        """So many bytes from there on; fewer at the object's end."""
        try:
            with _told(self):
                return bytes(obstore.get_range(self._store, self._key, start=offset, length=length))
        except NothingThere:
            if offset < self.stat().st_size:
                raise
            return b""

    def read_end(self, length: int) -> tuple[bytes, int]:
        """The last bytes of the object, in one request, and the length of the whole object."""
        try:
            with _told(self):
                found = self._get({"range": {"suffix": length}})
                return bytes(found.bytes()), found.meta["size"]
        except NothingThere:
            if self.stat().st_size:
                raise
            return b"", 0

    def open(self, mode: str) -> io.BufferedReader:
        """The object, for reading parts of it."""
        if mode != "rb":
            raise ValueError(f"objects are opened with rb, not {mode}")
        return io.BufferedReader(_ObjectReader(self), _READ_AHEAD)

    def write_bytes(self, data: bytes | mmap) -> None:
        """Puts the object, in place of what is there."""
        self._put(data)

    def create_bytes(self, data: bytes | mmap) -> None:
        """Puts the object (If-None-Match: *). Raises FileExistsError if there is one."""
        self._put(data, mode="create")

    def replace_bytes(self, data: bytes, mark: str) -> None:
        """Puts the object (If-Match). Raises FileExistsError unless its mark is still this one."""
        self._put(data, mode={"e_tag": mark})

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        if not missing_ok and not self.exists():
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        with _told(self):
            obstore.delete(self._store, self._key)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders are there as soon as an object is."""

    def is_file(self) -> bool:
        """True if there is such an object."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """True if there are objects below."""
        return next(self._below(), None) is not None

    def exists(self) -> bool:
        """True if there is such an object, or one below."""
        return self.is_file() or self.is_dir()

    def stat(self) -> "ObjectStat":
        """The object's length. Raises FileNotFoundError if there is none."""
        with _told(self):
            return ObjectStat(obstore.head(self._store, self._key)["size"])

    def iterdir(self) -> Iterator["RemotePath"]:
        """What lies directly below: objects, and beginnings of names."""
        return self.glob("*")

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Objects and beginnings of names whose last parts are as the pattern's, part by part."""
        wanted = pattern.split("/")
        names = {parts[: len(wanted)] for parts, _ in self._below() if len(parts) >= len(wanted)}
        for name in sorted(names):
            if all(map(fnmatch.fnmatchcase, name, wanted)):
                yield self.joinpath(*name)

    def rglob(self, pattern: str) -> Iterator["RemotePath"]:
        """All objects below whose name is as the pattern."""
        for parts, _ in self._below():
            if fnmatch.fnmatchcase(parts[-1], pattern):
                yield self.joinpath(*parts)

    def bytes_below(self) -> int:
        """Bytes of all objects below, by one listing."""
        return sum(size for _, size in self._below())

    def _below(self) -> Iterator[tuple[tuple[str, ...], int]]:
        """Of all objects below: the parts of the name after this one's, and the length."""
        with _told(self):
            for page in obstore.list(self._store, self._key):
                for found in page:
                    name = PurePosixPath(found["path"]).relative_to(self._key)
                    yield name.parts, found["size"]

    def _get(self, options: Any = None) -> "obstore.GetResult":
        return obstore.get(self._store, self._key, options=options)

    def _put(self, data: bytes | mmap, mode: Any = "overwrite") -> None:
        try:
            with _told(self):
                # one PUT whatever the length: multipart uploads know no conditions
                obstore.put(self._store, self._key, data, use_multipart=False, mode=mode)
        except (AlreadyExistsError, PreconditionError) as other:
            raise FileExistsError(errno.EEXIST, "somebody else wrote it", str(self)) from other

    @property
    def _key(self) -> str:
        return "/".join(self.parts[2:])

    @property
    def _store(self) -> ObjectStore:
        return _connect(self.parts[0], self.parts[1])


Place = Path | RemotePath
"""Where a store or one of its files lies."""


@dataclass(frozen=True)
class ObjectStat:
    """What is asked of an object beside its bytes."""

    st_size: int


class _ObjectReader(io.RawIOBase):
    """An object as a file: each read is a request."""

    def __init__(self, path: RemotePath):
        self._path, self._size, self._at = path, path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._at)
        data = self._path.read_range(self._at, wanted) if wanted > 0 else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class NothingThere(StoreFault):
    """The server gives no part of the object: it ends before, or the server knows no parts."""


def place(text: str | Place) -> Place:
    """The place that a user names. Raises StoreFault for a URL of a kind that is not known."""
    if not isinstance(text, str):
        return text
    found = _URL.match(text)
    if found is None:
        return Path(text)
    remote = RemotePath(text)
    if found[1] in SCHEMES and len(remote.parts) > 1:
        return remote
    raise StoreFault(
        "A store cannot lie at this URL.",
        where=text,
        expected=f"a path, or {', '.join(f'{scheme}://BUCKET/NAME' for scheme in SCHEMES)}",
        got=text,
        fix="Give a local folder, or a bucket of an object store.",
    )


def bytes_below(folder: Place) -> int:
    """Bytes of all files below; of the file itself if it is one."""
    if isinstance(folder, RemotePath):
        return folder.bytes_below() or (folder.stat().st_size if folder.is_file() else 0)
    files = folder.rglob("*") if folder.is_dir() else [folder]
    return sum(file.stat().st_size for file in files if file.is_file())


@lru_cache
def _connect(scheme: str, bucket: str) -> ObjectStore:
    """The bucket, with address and credentials out of the environment."""
    client: Any = {"allow_http": True, "timeout": _TIMEOUT}  # http only if the address says so
    return from_url(
        f"{scheme}//{bucket}", client_options=client, retry_config={"max_retries": RETRIES}
    )


@contextmanager
def _told(path: RemotePath) -> Iterator[None]:
    """Turns what the server refuses into a fault with a remedy."""
    try:
        yield
    except FileNotFoundError as missing:
        if "NoSuchBucket" in str(missing):
            raise _no_bucket(path) from missing
        raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from missing
    except (AlreadyExistsError, PreconditionError):
        raise
    except BaseError as refused:
        said = str(refused)
        if "NoSuchBucket" in said:
            raise _no_bucket(path) from refused
        no_part = "InvalidRange" in said or "non-partial" in said
        raise (NothingThere if no_part else StoreFault)(
            "The object store refuses, or cannot be reached.",
            where=path,
            expected="an answer",
            got=said.partition("\n")[0][:_SAID],
            fix="Look at the network, and at what the environment says: AWS_ENDPOINT_URL, "
            "AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (docs/store-format.md, Remote "
            "stores). Then run again: what is finished is kept.",
        ) from refused


def _no_bucket(path: RemotePath) -> StoreFault:
    return StoreFault(
        "There is no such bucket.",
        where=path,
        expected="a bucket that was made before",
        got=f"none called {path.parts[1]}",
        fix="Make the bucket, or correct its name or AWS_ENDPOINT_URL.",
    )
