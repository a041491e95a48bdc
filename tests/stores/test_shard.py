"""Claims about the bytes of one shard, most of them with a fault put in."""

from pathlib import Path

import numpy as np
import pytest
from google_crc32c import value as crc32c
from numcodecs import blosc

from stores.byte_source import open_bytes
from stores.checksums import first_other
from stores.shard import ABSENT, ALTERED, ShardDamage, ShardFile, ShardLayout, write_shard_file

PLAIN = ShardLayout(rows=4, row_shape=(3, 2, 5), dtype="float16", pieces=3, compressed=False)
PACKED = ShardLayout(rows=4, row_shape=(3, 2, 5), dtype="float16", pieces=1, compressed=True)
LAYOUTS = pytest.mark.parametrize("layout", [PLAIN, PACKED], ids=["plain", "packed"])


def some_rows(layout: ShardLayout, count: int = 3) -> list[tuple[int, np.ndarray]]:
    random = np.random.default_rng(0)
    return [(k, random.normal(size=layout.row_shape).astype(layout.dtype)) for k in range(count)]


def read(path: Path, layout: ShardLayout, position: int, pieces: int | None = None) -> np.ndarray:
    pieces = layout.pieces if pieces is None else pieces
    out = np.zeros(pieces * layout.piece_bytes, dtype=np.uint8)
    checksums = ShardFile(open_bytes(path), layout).read_row(position, out, pieces=pieces)
    assert len(checksums) == (0 if layout.compressed else pieces)
    if first_other(out.data, checksums) is not None:  # as a reader of many rows does
        raise ShardDamage(ALTERED, position)
    shape = layout.row_shape if pieces == layout.pieces else layout.row_shape[1:]
    return out.view(layout.dtype).reshape(shape)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(bytes(data))


@LAYOUTS
def test_rows_come_back_bit_for_bit(tmp_path: Path, layout: ShardLayout) -> None:
    path = tmp_path / "shard"
    size = write_shard_file(path, layout, some_rows(layout))
    assert size == path.stat().st_size
    for position, row in some_rows(layout):
        assert read(path, layout, position).tobytes() == row.tobytes()


def test_the_first_piece_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    write_shard_file(path, PLAIN, some_rows(PLAIN))
    flip(path, PLAIN.piece_bytes + 10)  # in the first row's second piece
    assert read(path, PLAIN, 0, pieces=1).tobytes() == some_rows(PLAIN)[0][1][0].tobytes()
    with pytest.raises(ShardDamage, match="checksum"):
        read(path, PLAIN, 0)


def test_pieces_are_found_in_any_order_in_the_file(tmp_path: Path) -> None:
    path, stride = tmp_path / "shard", PLAIN.piece_bytes + 4
    write_shard_file(path, PLAIN, some_rows(PLAIN))
    data = path.read_bytes()[: -PLAIN.index_bytes]
    index = np.frombuffer(path.read_bytes()[-PLAIN.index_bytes : -4], "<u8").reshape(-1, 2).copy()
    order = np.random.default_rng(0).permutation(9)
    pieces = [data[k * stride : (k + 1) * stride] for k in order]
    index[order, 0] = np.arange(9) * stride
    footer = index.tobytes()
    path.write_bytes(b"".join(pieces) + footer + crc32c(footer).to_bytes(4, "little"))
    for position, row in some_rows(PLAIN):
        assert read(path, PLAIN, position).tobytes() == row.tobytes()
    flip(path, int(index[4, 0]) + 3)  # row 1, piece 1
    with pytest.raises(ShardDamage, match="checksum"):
        read(path, PLAIN, 1)


@LAYOUTS
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, layout: ShardLayout) -> None:
    write_shard_file(tmp_path / "a", layout, some_rows(layout))
    threads = blosc.set_nthreads(1)
    write_shard_file(tmp_path / "b", layout, some_rows(layout))
    blosc.set_nthreads(threads)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_rows_in_any_byte_order_and_memory_order_give_the_same_bytes(tmp_path: Path) -> None:
    rows = some_rows(PLAIN)
    swapped = [(k, np.asfortranarray(row).astype(">f2")) for k, row in rows]
    write_shard_file(tmp_path / "a", PLAIN, rows)
    write_shard_file(tmp_path / "b", PLAIN, swapped)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@LAYOUTS
def test_a_flipped_bit_anywhere_is_an_error(tmp_path: Path, layout: ShardLayout) -> None:
    path = tmp_path / "shard"
    size = write_shard_file(path, layout, some_rows(layout))
    whole = path.read_bytes()
    for offset in range(size):
        flip(path, offset)
        with pytest.raises(ShardDamage):
            for position in range(3):
                read(path, layout, position)
        path.write_bytes(whole)


@LAYOUTS
def test_a_shard_cut_short_anywhere_is_an_error(tmp_path: Path, layout: ShardLayout) -> None:
    path = tmp_path / "shard"
    size = write_shard_file(path, layout, some_rows(layout))
    whole = path.read_bytes()
    for length in range(size):
        path.write_bytes(whole[:length])
        with pytest.raises(ShardDamage):
            read(path, layout, 0)


def test_a_shard_cut_short_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    write_shard_file(path, PLAIN, some_rows(PLAIN))
    shard = ShardFile(open_bytes(path), PLAIN)
    with path.open("r+b") as file:
        file.truncate(PLAIN.row_bytes)
    with pytest.raises(ShardDamage, match="cut short"):
        shard.read_row(2, np.zeros(PLAIN.row_bytes, np.uint8), pieces=PLAIN.pieces)


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardDamage, match="missing"):
        ShardFile(open_bytes(tmp_path / "none"), PLAIN)


def test_a_row_that_was_never_written_is_an_error_and_costs_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    size = write_shard_file(path, PLAIN, some_rows(PLAIN, count=2))
    assert size == 2 * (PLAIN.row_bytes + 3 * 4) + PLAIN.index_bytes
    with pytest.raises(ShardDamage, match="never written") as damage:
        read(path, PLAIN, 3)
    assert damage.value.position == 3
    footer = np.frombuffer(path.read_bytes()[-PLAIN.index_bytes : -4], "<u8")
    assert (footer.reshape(4, 3, 2)[2:] == ABSENT).all()


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def rows():
        yield from some_rows(PLAIN, count=1)
        raise RuntimeError("the VAE gave up")

    with pytest.raises(RuntimeError, match="gave up"):
        write_shard_file(tmp_path / "c" / "shard", PLAIN, rows())
    assert list((tmp_path / "c").iterdir()) == []
