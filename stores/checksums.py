"""Checksums of many equal pieces at once: one pass over all of them, compared with theirs combined.

A checksum of joined bytes follows from those of its parts (as zlib's crc32_combine has it), so a
batch needs one call instead of one a piece: each call hands the interpreter to other threads.
"""

from collections.abc import Sequence
from functools import lru_cache

from crc32c import crc32c

CRC_BYTES = 4
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reflected
_BITS = 32
Tables = tuple[list[int], list[int], list[int], list[int]]


def joined_checksum(checksums: Sequence[int], piece_bytes: int) -> int:
    """crc32c of pieces of `piece_bytes` each, joined, out of the crc32c of each."""
    first, second, third, fourth = _moved(piece_bytes)
    joined = 0
    for checksum in checksums:
        joined = (
            first[joined & 0xFF]
            ^ second[joined >> 8 & 0xFF]
            ^ third[joined >> 16 & 0xFF]
            ^ fourth[joined >> 24]
            ^ checksum
        )
    return joined


def first_other(data: memoryview, checksums: Sequence[int]) -> int | None:
    """Number of the first of the equal pieces of `data` with another checksum; None if all agree.

    All are compared in one pass; only if that differs, each by itself.
    """
    if not checksums:
        return None
    piece_bytes = data.nbytes // len(checksums)
    if crc32c(data) == joined_checksum(checksums, piece_bytes):
        return None
    starts = range(0, data.nbytes, piece_bytes)
    apart = [crc32c(data[start : start + piece_bytes]) for start in starts]
    return next(number for number, found in enumerate(apart) if found != checksums[number])


@lru_cache(16)
def _moved(count: int) -> Tables:
    """For each byte of a checksum, what it becomes once `count` bytes follow it: a linear map."""
    bit_moved = [_POLYNOMIAL, *(1 << bit for bit in range(_BITS - 1))]  # one bit of zero after it
    columns = _power(bit_moved, 8 * count)
    first, second, third, fourth = (
        [_apply(columns, value << shift) for value in range(256)] for shift in (0, 8, 16, 24)
    )
    return first, second, third, fourth


def _power(columns: list[int], exponent: int) -> list[int]:
    found = [1 << bit for bit in range(_BITS)]
    while exponent:
        if exponent & 1:
            found = [_apply(columns, column) for column in found]
        columns = [_apply(columns, column) for column in columns]
        exponent >>= 1
    return found


def _apply(columns: list[int], vector: int) -> int:
    total = 0
    for column in columns:
        if vector & 1:
            total ^= column
        vector >>= 1
    return total
