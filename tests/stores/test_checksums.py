"""Claims about many checksums compared at once: as sharp as one by one, the same piece found."""

from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st

from stores.checksums import first_other, joined_checksum

PIECES = st.integers(1, 40).flatmap(
    lambda size: st.lists(st.binary(min_size=size, max_size=size), min_size=1, max_size=9)
)


@given(pieces=PIECES)
def test_checksums_of_pieces_join_to_that_of_the_joined_bytes(pieces: list[bytes]) -> None:
    found = joined_checksum([crc32c(piece) for piece in pieces], len(pieces[0]))
    assert found == crc32c(b"".join(pieces))


def test_pieces_as_long_as_those_of_a_store_join_too() -> None:
    pieces = [bytes([k]) * 2**17 for k in range(5)]
    found = joined_checksum([crc32c(piece) for piece in pieces], 2**17)
    assert found == crc32c(b"".join(pieces))


@given(pieces=PIECES, data=st.data())
def test_the_first_piece_with_a_flipped_bit_is_found(pieces: list[bytes], data) -> None:
    checksums = [crc32c(piece) for piece in pieces]
    assert first_other(memoryview(b"".join(pieces)), checksums) is None
    places = st.integers(0, len(pieces) * len(pieces[0]) * 8 - 1)
    flipped = data.draw(st.sets(places, min_size=1, max_size=5))
    altered = bytearray(b"".join(pieces))
    for bit in flipped:
        altered[bit // 8] ^= 1 << bit % 8
    assert first_other(memoryview(altered), checksums) == min(flipped) // 8 // len(pieces[0])


@given(pieces=PIECES, other=st.integers(1, 2**32 - 1), data=st.data())
def test_an_altered_checksum_is_found_too(pieces: list[bytes], other: int, data) -> None:
    checksums = [crc32c(piece) for piece in pieces]
    number = data.draw(st.integers(0, len(pieces) - 1))
    checksums[number] ^= other
    assert first_other(memoryview(b"".join(pieces)), checksums) == number


def test_nothing_to_compare_agrees() -> None:
    assert first_other(memoryview(b"abc"), []) is None
