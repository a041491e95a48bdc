"""Claims about clip lists as artefacts: described, compared, and exported."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stores.clip_list import ClipDiff, describe_clips, diff_clips, export_csv
from stores.errors import StoreFault
from stores.index import ClipIndex, ClipRow, write_index
from stores.version import StoreRecipe


@pytest.fixture
def index(rows: list[ClipRow], recipe: StoreRecipe) -> ClipIndex:
    return ClipIndex("/data/egoexo", recipe.clips, tuple(rows))


@pytest.fixture
def compare(tmp_path: Path, index: ClipIndex) -> Callable[[ClipIndex], ClipDiff]:
    """The difference from the seven clips to another list."""

    def diff(other: ClipIndex) -> ClipDiff:
        write_index(tmp_path / "a", index)
        write_index(tmp_path / "b", other)
        return diff_clips(tmp_path / "a", tmp_path / "b")

    return diff


def changed(index: ClipIndex, row: ClipRow) -> ClipIndex:
    return replace(index, rows=(row, *index.rows[1:]))


def test_a_list_says_what_it_is(tmp_path: Path, index: ClipIndex) -> None:
    write_index(tmp_path / "clips.parquet", index)
    about = describe_clips(tmp_path / "clips.parquet")
    assert (about["digest"], about["clips"], about["takes"]) == (index.digest, 7, 2)
    assert about["clips_of"] == {"Bike Repair/train": 5, "Cooking/test": 2}
    assert about["takes_of"] == {"Bike Repair/train": 1, "Cooking/test": 1}
    assert about["sets"] == {"test-1": 1, "test-all": 1}
    assert about["recipe"]["stride"] == index.recipe.stride


def test_a_list_is_itself_wherever_its_data_lie(
    compare: Callable[[ClipIndex], ClipDiff], index: ClipIndex
) -> None:
    found = compare(replace(index, root="/elsewhere"))
    assert found.is_same
    assert not (found.recipe or found.only_in_a or found.only_in_b or found.changed)


def test_clips_that_one_list_lacks_are_named(
    compare: Callable[[ClipIndex], ClipDiff], index: ClipIndex
) -> None:
    new = replace(index.rows[0], take_name="take_0", clip_id="take_0-f000000")
    found = compare(replace(index, rows=(*index.rows[1:], new)))
    assert (found.only_in_a, found.only_in_b) == (("take_a-f000000",), ("take_0-f000000",))
    assert (found.clips, found.changed, found.is_same) == ((7, 7), (), False)


def test_a_field_of_the_recipe_is_told_with_both_values(
    compare: Callable[[ClipIndex], ClipDiff], index: ClipIndex
) -> None:
    recipe = index.recipe.model_copy(update={"stride": 10})
    assert compare(replace(index, recipe=recipe)).recipe == {"stride": (4, 10)}


def test_a_moved_and_turned_camera_is_told_in_millimetres_and_degrees(
    compare: Callable[[ClipIndex], ClipDiff], index: ClipIndex
) -> None:
    row = index.rows[0]
    poses = row.ego.world_from_cam.copy()
    poses[3, 2, 3] += 0.0025
    turn = np.radians(0.3)
    cosine, sine = np.cos(turn), np.sin(turn)
    poses[1, :3, :3] = poses[1, :3, :3] @ [[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]
    (change,) = compare(
        changed(index, replace(row, ego=replace(row.ego, world_from_cam=poses)))
    ).changed
    assert change.clip_id == row.clip_id
    assert change.millimetres == pytest.approx(2.5)
    assert change.degrees == pytest.approx(0.3)
    assert change.what == ("aria moved by 2.5 mm, 0.3 degrees",)


def test_other_frames_cameras_splits_and_lenses_are_told(
    compare: Callable[[ClipIndex], ClipDiff], index: ClipIndex
) -> None:
    row = index.rows[0]
    one, two = row.present
    other = replace(
        row,
        split="val",
        frames=tuple(frame + 2 for frame in row.frames),
        exos=(two, replace(one, params=(9.0, *one.params[1:]))),
    )
    (change,) = compare(changed(index, other)).changed
    assert change.what == (
        "split: train -> val",
        "frames: 5 from 0 to 16 -> 5 from 2 to 18",
        "cameras: aria cam01 cam02 -> aria cam02 cam01",
        "cam01: other params",
        *change.what[4:],
    )
    assert not any("cam0" in what and "moved" in what for what in change.what)


def test_an_absent_view_is_no_camera_of_the_list(
    compare: Callable[[ClipIndex], ClipDiff], index: ClipIndex
) -> None:
    row = index.rows[0]
    (change,) = compare(changed(index, replace(row, exos=(row.exos[0], None)))).changed
    assert change.what == ("cameras: aria cam01 cam02 -> aria cam01",)


def test_a_table_has_a_line_a_clip(tmp_path: Path, index: ClipIndex) -> None:
    write_index(tmp_path / "clips.parquet", index)
    assert export_csv(tmp_path / "clips.parquet", tmp_path / "clips.csv") == 7
    with (tmp_path / "clips.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 7
    last = next(line for line in lines if line["clip_id"] == "take_b-f000000")
    assert last["sets"].split() == ["test-all", "test-1"]
    assert (last["first_frame"], last["stride"], last["frames"]) == ("0", "4", "5")
    assert (last["ego"], last["reference"], last["exos"]) == ("aria", "cam01", "cam01 cam02")


def test_a_damaged_list_makes_no_table(tmp_path: Path, index: ClipIndex) -> None:
    write_index(tmp_path / "clips.parquet", index)
    body = (tmp_path / "clips.parquet").read_bytes()
    (tmp_path / "clips.parquet").write_bytes(b"PAR1" + bytes(900) + body[904:])
    with pytest.raises(StoreFault):
        export_csv(tmp_path / "clips.parquet", tmp_path / "clips.csv")
    assert not (tmp_path / "clips.csv").exists()
