"""The bytes of one tar shard of clips: names of its members, writing, listing, reading a row.

A shard is a plain WebDataset tar: for every clip `<key>.json`, what the index says of it, then
`<key>.<array>.npy` for every array that is kept for it. The same clips give the same bytes.
"""

import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import quote, unquote

import numpy as np
import orjson

from stores.atomic import whole_file
from stores.index import ClipRow, row_to_dict
from stores.place import Place
from stores.shard import ByteSource, ShardDamage, ShardLayout, fill_row

ABOUT = "json"
"""Ending of the member that says what a clip is."""
_NAME_BYTES = 100  # of a tar header's name; the rest of a longer one stands in a header before it
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_ALIGNMENT = 64

TarSample = tuple[ClipRow, Mapping[str, np.ndarray]]
"""A clip and its row of every array that is kept for it."""


@dataclass(frozen=True)
class Member:
    """Where one member's bytes lie in its tar."""

    name: str
    offset: int
    size: int


def clip_key(clip_id: str) -> str:
    """The clip's id as WebDataset's key: dots and all but letters, digits, _ - ~ as %XX."""
    return quote(clip_id, safe="").replace(".", "%2E")


def clip_id_of(key: str) -> str:
    """The id that `clip_key` was given."""
    return unquote(key)


def member_name(clip_id: str, array: str) -> str:
    """Name of the member that holds one array of a clip; of its description for `ABOUT`."""
    return f"{clip_key(clip_id)}.{array if array == ABOUT else array + '.npy'}"


def describe_clip(row: ClipRow) -> bytes:
    """What the index says of the clip, as canonical JSON; its blake3 is the clip's digest."""
    return orjson.dumps(row_to_dict(row), option=orjson.OPT_SORT_KEYS)


def npy_header(layout: ShardLayout) -> bytes:
    """All that stands before the numbers of one row in the .npy format, as numpy writes it."""
    descr = np.dtype(layout.dtype).newbyteorder("<").str
    about = {"descr": descr, "fortran_order": False, "shape": layout.row_shape}
    text = "{" + "".join(f"{key!r}: {value!r}, " for key, value in about.items()) + "}"
    bare = len(_NPY_MAGIC) + 2 + len(text) + 1
    text += " " * (-bare % _NPY_ALIGNMENT) + "\n"
    return _NPY_MAGIC + len(text).to_bytes(2, "little") + text.encode("latin-1")


def write_tar(
    path: Place, layouts: Mapping[str, ShardLayout], samples: Iterable[TarSample]
) -> tuple[int, int]:
    """Writes the clips as one whole tar; returns how many they are, and its length in bytes."""
    clips = 0
    with whole_file(path) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for clip, arrays in samples:
                clips += 1
                _add(tar, member_name(clip.clip_id, ABOUT), describe_clip(clip))
                for name, row in arrays.items():
                    payload = npy_header(layouts[name]) + layouts[name].row_view(row).tobytes()
                    _add(tar, member_name(clip.clip_id, name), payload)
        length = file.tell()
    return clips, length


def list_members(path: Place, expected: Mapping[str, int | None]) -> Iterator[Member]:
    """The members of a tar, reading headers only; `expected` has the names, and sizes if known.

    Raises ShardDamage as soon as a member is not expected, of another size or kind, or there
    twice, and at the end if one is missing or the file is cut short.
    """
    missing = dict(expected)
    try:
        length = path.stat().st_size
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                _refuse(member, expected, missing, length)
                del missing[member.name]
                yield Member(member.name, member.offset_data, member.size)
    except FileNotFoundError as gone:
        raise ShardDamage("the file is missing") from gone
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as foreign:
        raise ShardDamage(f"the tar is damaged or cut short ({foreign})") from foreign
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ShardDamage(f"the tar has no {next(iter(missing))}{more}: damaged or cut short")


class TarFile:
    """One array's rows in an open tar. Safe to read from many threads."""

    def __init__(
        self,
        source: ByteSource,
        layout: ShardLayout,
        names: Sequence[str],
        offsets: Sequence[int],
    ):
        self._source, self._names, self._offsets = source, names, offsets
        self._header = npy_header(layout)

    def read_row(self, position: int, out: np.ndarray, *, pieces: int) -> tuple[int, ...]:
        """Reads the first `pieces` pieces of a row into `out`, uint8; they have no checksums."""
        name, offset = self._names[position], self._offsets[position]
        if offset < 0:
            raise ShardDamage(f"the tar has no {name}: damaged or cut short", position)
        head = bytearray(tarfile.BLOCKSIZE + len(self._header))
        buffers, start = [head, out.data], offset - tarfile.BLOCKSIZE
        fill_row(self._source, position, buffers, start, len(head) + out.nbytes)
        if bytes(head[:_NAME_BYTES]).rstrip(b"\0") != name.encode()[:_NAME_BYTES]:
            raise ShardDamage(f"another member lies where {name} should", position)
        # nothing that stands in a file is ever interpreted: the header is the right one, or not
        if head[tarfile.BLOCKSIZE :] != self._header:
            raise ShardDamage(f"{name} is not the npy file it should be (altered)", position)
        return ()


def check_member(path: Place, member: Member, expected: bytes) -> None:
    """Raises ShardDamage unless the member is just these bytes."""
    with path.open("rb") as file:
        file.seek(member.offset)
        found = file.read(member.size)
    if found != expected:
        raise ShardDamage(f"{member.name} is not what the manifest says of the clip")


def _add(tar: tarfile.TarFile, name: str, payload: bytes) -> None:
    about = tarfile.TarInfo(name)  # of nobody, and of 1970
    about.size = len(payload)
    tar.addfile(about, BytesIO(payload))


def _refuse(
    member: tarfile.TarInfo,
    expected: Mapping[str, int | None],
    missing: Mapping[str, int | None],
    length: int,
) -> None:
    """Raises ShardDamage unless the member is a plain file that belongs here, and is whole."""
    name = member.name
    if name.startswith("/") or ".." in name.split("/"):
        reason = "leads out of its folder"
    elif "/" in name or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        reason = "is no plain file at the top"
    elif member.issparse():
        reason = "is a sparse file"
    elif name not in expected:
        reason = "is no clip and array of the manifest"
    elif name not in missing:
        reason = "is there twice"
    elif expected[name] not in (None, member.size):
        reason = f"has {member.size} bytes, not {expected[name]}"
    elif member.size < 0 or member.offset_data + member.size > length:
        reason = "is cut short"
    else:
        return
    raise ShardDamage(f"its member {name!r} {reason}")
