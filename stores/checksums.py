"""crc32c of many equal pieces at once: one pass over all of them, compared with theirs combined.

awscrt has the fastest crc32c that PyPI offers (carry-less multiplication over 512 bits where the
processor has it), without the interpreter's lock, and combines checksums of joined bytes.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

from awscrt.checksums import combine_crc32c, crc32c

CRC_BYTES = 4


def checksum(data: Any) -> int:
    """crc32c of what has a buffer of bytes (awscrt's own signature names bytes alone)."""
    return crc32c(data)


def joined_checksum(checksums: Sequence[int], piece_bytes: int) -> int:
    """crc32c of pieces of `piece_bytes` each, joined, out of the crc32c of each."""
    return reduce(lambda joined, one: combine_crc32c(joined, one, piece_bytes), checksums, 0)


def first_other(data: memoryview, checksums: Sequence[int]) -> int | None:
    """Number of the first of the equal pieces of `data` with another checksum; None if all agree.

    All are compared in one pass; only if that differs, each by itself.
    """
    if not checksums:
        return None
    piece_bytes = data.nbytes // len(checksums)
    if checksum(data) == joined_checksum(checksums, piece_bytes):
        return None
    starts = range(0, data.nbytes, piece_bytes)
    apart = [checksum(data[start : start + piece_bytes]) for start in starts]
    return next(number for number, found in enumerate(apart) if found != checksums[number])
