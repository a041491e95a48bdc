"""Claims about the clip index: what is written comes back, and what is not ours is refused."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stores.errors import StoreFault
from stores.index import (
    ClipIndex,
    ClipRow,
    by_take,
    open_index,
    read_index,
    row_from_dict,
    row_to_dict,
    take_table,
    write_index,
    write_takes,
)
from stores.version import StoreRecipe


@pytest.fixture
def index(rows: list[ClipRow], recipe: StoreRecipe) -> ClipIndex:
    ordered = tuple(sorted(rows, key=lambda row: row.clip_id))
    return ClipIndex("/data/egoexo", recipe.clips, ordered)


def test_rows_come_back_as_they_were(tmp_path: Path, index: ClipIndex) -> None:
    write_index(tmp_path / "clips.parquet", index)
    back = read_index(tmp_path / "clips.parquet")
    assert (back.root, back.recipe, back.digest) == (index.root, index.recipe, index.digest)
    assert [row_to_dict(row) for row in back.rows] == [row_to_dict(row) for row in index.rows]
    assert (back.rows[3].ego.world_from_cam == index.rows[3].ego.world_from_cam).all()


def test_a_row_is_its_dictionary(index: ClipIndex) -> None:
    assert row_to_dict(row_from_dict(row_to_dict(index.rows[0]))) == row_to_dict(index.rows[0])


def test_rows_are_written_in_the_order_of_their_ids(tmp_path: Path, index: ClipIndex) -> None:
    write_index(tmp_path / "a", replace(index, rows=index.rows[::-1]))
    write_index(tmp_path / "b", index)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_digest_names_recipe_and_rows_but_not_the_folder(index: ClipIndex) -> None:
    assert replace(index, root="/elsewhere").digest == index.digest
    assert replace(index, rows=index.rows[1:]).digest != index.digest
    recipe = index.recipe.model_copy(update={"stride": 2})
    assert replace(index, recipe=recipe).digest != index.digest


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    with pq.ParquetFile(path) as file:
        about = file.metadata.metadata[b"exo2ego"].replace(old, new)
        table = file.read()
    pq.write_table(table.replace_schema_metadata({"exo2ego": about}), path)


def drop_rows(path: Path, rows: int) -> None:
    with pq.ParquetFile(path) as file:
        about, table = file.metadata.metadata[b"exo2ego"], file.read()
    pq.write_table(table.slice(rows).replace_schema_metadata({"exo2ego": about}), path)


SPOIL: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "text": lambda path: path.write_text("clip_id,take\n"),
    "foreign": lambda path: pq.write_table(
        pq.read_table(path).replace_schema_metadata({"pandas": "{}"}), path
    ),
    "newer": lambda path: rewrite(path, b'"format":1', b'"format":2'),
    "altered": lambda path: rewrite(path, b'"digest":"', b'"digest":"0'),
    "shortened": lambda path: drop_rows(path, 1),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "garbled": lambda path: path.write_bytes(
        b"PAR1" + bytes(900) + path.read_bytes()[904:]  # the footer is whole, a page is not
    ),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "recipe": lambda path: rewrite(path, b'"stride"', b'"stride_of_the_future"'),
}


@pytest.mark.parametrize("case", sorted(SPOIL))
def test_what_is_not_a_whole_index_of_ours_is_refused(
    tmp_path: Path, index: ClipIndex, case: str
) -> None:
    path = tmp_path / "clips.parquet"
    write_index(path, index)
    SPOIL[case](path)
    with pytest.raises(StoreFault, match="clip index cannot be read") as fault:
        read_index(path)
    assert "ingest" in fault.value.fix and str(path) in str(fault.value)


def test_an_index_keeps_its_old_self_until_the_new_one_is_whole(
    tmp_path: Path, index: ClipIndex
) -> None:
    path = tmp_path / "clips.parquet"
    write_index(path, index)
    before = path.read_bytes()
    broken = replace(index.rows[0], frames=(2**40,))
    with pytest.raises(ValueError, match="too large"):
        write_index(path, replace(index, rows=(broken,)))
    assert path.read_bytes() == before


def test_takes_are_read_one_after_the_other_with_few_clips_in_memory(
    tmp_path: Path, index: ClipIndex
) -> None:
    write_index(tmp_path / "clips.parquet", index)
    file = open_index(tmp_path / "clips.parquet")
    assert (file.clips, file.digest, file.recipe) == (7, index.digest, index.recipe)
    takes = [[row.clip_id for row in take] for take in file.takes()]
    assert takes == [[row.clip_id for row in take] for take in by_take(index.rows)]


def test_a_take_that_is_the_start_of_anothers_name_comes_first(index: ClipIndex) -> None:
    first, later, *_ = index.rows
    rows = [replace(first, take_name=name) for name in ("a-b", "a")]
    rows.append(replace(later, take_name="a"))
    digests = {ClipIndex("/d", index.recipe, order).digest for order in permutations(rows)}
    assert len(digests) == 1
    assert [take[0].take_name for take in by_take(rows)] == ["a", "a-b"]


def test_takes_out_of_order_are_a_mistake_of_the_caller(tmp_path: Path, index: ClipIndex) -> None:
    takes = [take_table(rows) for rows in by_take(index.rows)]
    with pytest.raises(ValueError, match="not in order"):
        write_takes(tmp_path / "clips.parquet", "/d", index.recipe, takes[::-1])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told_with_a_way_out(index: ClipIndex) -> None:
    with pytest.raises(StoreFault, match="cannot be written") as fault:
        write_index(Path("/proc/clips.parquet"), index)
    assert "--out" in fault.value.fix
