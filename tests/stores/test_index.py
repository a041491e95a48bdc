"""Claims about the clip index: what is written comes back, and what is not ours is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stores.errors import StoreFault
from stores.index import ClipIndex, ClipRow, read_index, row_from_dict, row_to_dict, write_index
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


@pytest.mark.parametrize("case", ["missing", "text", "foreign", "newer", "altered", "recipe"])
def test_what_is_not_a_whole_index_of_ours_is_refused(
    tmp_path: Path, index: ClipIndex, case: str
) -> None:
    path = tmp_path / "clips.parquet"
    write_index(path, index)
    SPOIL[case](path)
    with pytest.raises(StoreFault, match="clip index cannot be read") as fault:
        read_index(path)
    assert "ingest" in fault.value.fix and str(path) in str(fault.value)


def rewrite(path: Path, old: bytes, new: bytes) -> None:
    table = pq.read_table(path)
    about = (table.schema.metadata or {})[b"exo2ego"].replace(old, new)
    pq.write_table(table.replace_schema_metadata({"exo2ego": about}), path)


SPOIL: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "text": lambda path: path.write_text("clip_id,take\n"),
    "foreign": lambda path: pq.write_table(
        pq.read_table(path).replace_schema_metadata({"pandas": "{}"}), path
    ),
    "newer": lambda path: rewrite(path, b'"format":1', b'"format":2'),
    "altered": lambda path: pq.write_table(pq.read_table(path).slice(1), path),
    "recipe": lambda path: rewrite(path, b'"stride"', b'"stride_of_the_future"'),
}


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
