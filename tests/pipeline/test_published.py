"""Claims about a published list made again from one's own root: pipeline/published.py."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.ingest import IngestFault, IngestReport, ingest
from stores.index import ClipIndex, read_index, write_index
from stores.recipe import ClipRecipe

RECIPE = ClipRecipe(stride=2, window_step=20)


@pytest.fixture
def theirs(root: Any, tmp_path: Path) -> Path:
    """The published list of two takes with two clips each."""
    root.add("cmu_bike01_2", split="test")
    root.add("cmu_bike01_3")
    ingest(root.write(), tmp_path / "theirs.parquet", recipe=RECIPE)
    return tmp_path / "theirs.parquet"


def again(root: Any, theirs: Path, **options: Any) -> IngestReport:
    return ingest(root.write(), theirs.parent / "own" / "clips.parquet", clips=theirs, **options)


def told(report: IngestReport) -> tuple[int, int, int, bool]:
    assert report.published is not None
    found = report.published
    return found.clips, found.kept, found.altered, found.is_same


def change(theirs: Path, **fields: Any) -> None:
    """Another first row in the published list."""
    index = read_index(theirs)
    rows = (replace(index.rows[0], **fields), *index.rows[1:])
    write_index(theirs, ClipIndex(index.root, index.recipe, rows))


def test_the_same_root_gives_the_same_list(root: Any, theirs: Path) -> None:
    report = again(root, theirs)
    assert told(report) == (4, 4, 0, True)
    assert read_index(report.index).digest == read_index(theirs).digest
    assert read_index(report.index).recipe == RECIPE
    assert "the same list" in str(report.published)
    assert not report.rejects


def test_what_the_own_root_has_beyond_the_list_stays_out(root: Any, theirs: Path) -> None:
    index = read_index(theirs)
    write_index(theirs, ClipIndex("", RECIPE, (index.rows[0], index.rows[3])))
    root.add("cmu_bike01_4")
    assert told(again(root, theirs)) == (2, 2, 0, True)


def test_a_take_that_cannot_be_had_is_a_row_and_the_list_another(root: Any, theirs: Path) -> None:
    (root.takes[0].videos / "cam02.mp4").unlink()
    report = again(root, theirs)
    assert told(report) == (4, 2, 0, False)
    assert report.reasons == {"missing_video": 1}
    assert "2 are missing" in str(report.published)


def test_a_take_that_takes_json_lacks_is_a_row(root: Any, theirs: Path) -> None:
    del root.takes[1]
    report = again(root, theirs)
    assert (told(report)[1], report.reasons) == (2, {"published_take_absent": 1})


def test_a_take_that_is_called_otherwise_here_is_a_row(root: Any, theirs: Path) -> None:
    change(theirs, take_uid="another")
    assert "published_take_absent" in again(root, theirs).reasons


def test_clips_without_their_frames_or_poses_are_rows(root: Any, theirs: Path) -> None:
    take = root.takes[0]
    del take.camera_pose["aria01"]["camera_extrinsics"]["22"]
    take.camera_pose_path.write_text(json.dumps(take.camera_pose))
    report = again(root, theirs)
    (reject,) = report.rejects
    assert (reject.clip_id, reject.reason) == ("cmu_bike01_2-f000020", "published_clip_absent")
    assert told(report) == (4, 3, 0, False)
    kept = read_index(report.index).rows[0]
    assert kept.sets == read_index(theirs).rows[0].sets  # not central here either


def moved(theirs: Path, by: float) -> np.ndarray:
    poses = read_index(theirs).rows[0].ego.world_from_cam.copy()
    poses[2, 1, 3] += by
    return poses


@pytest.mark.parametrize(("metres", "kept"), [(2e-6, 3), (5e-7, 4)])
def test_a_pose_that_differs_by_more_than_a_micrometre_is_another(
    root: Any, theirs: Path, metres: float, kept: int
) -> None:
    ego = read_index(theirs).rows[0].ego
    change(theirs, ego=replace(ego, world_from_cam=moved(theirs, metres)))
    report = again(root, theirs)
    assert told(report) == (4, kept, kept - 3, False)
    assert report.reasons == ({"published_clip_differs": 1} if kept == 3 else {})


@pytest.mark.parametrize("what", ["cameras", "lens", "frames", "split", "params"])
def test_what_else_differs_is_a_row_that_says_what(root: Any, theirs: Path, what: str) -> None:
    row = read_index(theirs).rows[0]
    first, *others = row.present
    fields = {
        "cameras": {"exos": (*others, first)},
        "lens": {"ego": replace(row.ego, quarter_turns_cw=0)},
        "frames": {"frames": tuple(frame + 1 for frame in row.frames)},
        "split": {"split": "val"},
        "params": {"exos": (replace(first, params=(1.0, *first.params[1:])), *others)},
    }
    change(theirs, **fields[what])
    report = again(root, theirs)
    (reject,) = report.rejects
    assert reject.reason == "published_clip_differs"
    assert {"params": "calibration"}.get(what, what) in reject.detail


def test_copies_of_another_size_are_the_same_clips_with_other_bits(
    root: Any, theirs: Path, make_mp4: Any
) -> None:
    for take in root.takes:
        for file in take.videos.iterdir():
            hw = (128, 128) if file.name.startswith("aria") else (72, 128)
            file.write_bytes(make_mp4(hw, 50))
    assert told(again(root, theirs)) == (4, 4, 4, False)


def test_a_list_brings_its_recipe_and_no_other_is_taken(root: Any, theirs: Path) -> None:
    with pytest.raises(IngestFault, match="stride"):
        again(root, theirs, recipe=ClipRecipe())


def test_a_list_says_which_categories(root: Any, tmp_path: Path) -> None:
    root.add("sfu_cooking_1", category="cooking")
    theirs = tmp_path / "theirs.parquet"
    ingest(root.write(), theirs, recipe=RECIPE, categories=("cooking",))
    assert told(again(root, theirs)) == (2, 2, 0, True)
