"""Claims about an ingest whose sources disagree, have gaps, or are written untidily."""

from typing import Any

from pipeline.ingest import IngestReport, ingest
from stores.recipe import ClipRecipe


def run(root: Any) -> IngestReport:
    """One ingest of a root, into a folder beside it."""
    return ingest(root.write(), root.path.with_name("out") / "clips.parquet", recipe=ClipRecipe())


def _untimed(take: Any) -> None:
    """Neither source says when frames were taken: the cells of one are empty."""
    take.camera_pose_path.unlink()
    for row in take.timesync:
        row.update({name: "" for name in row if "214-1" in name})
    take.sources = "B"
    take.write()


def test_frames_whose_timesync_cell_is_empty_have_no_pose_and_the_others_do(root: Any) -> None:
    take = root.add("cmu_bike01_2", frames=100, sources="B")
    take.timesync[7 + 40]["aria01_214-1_capture_timestamp_ns"] = ""
    take.write()
    report = run(root)
    assert [(reject.clip_id, reject.reason) for reject in report.rejects] == [
        ("cmu_bike01_2-f000036", "missing_pose")
    ]


def test_a_take_without_one_timed_frame_is_a_row(root: Any) -> None:
    root.add("cmu_bike01_2")
    _untimed(root.add("cmu_bike01_3"))
    report = run(root)
    assert report.takes == 1
    assert [reject.take_name for reject in report.rejects] == ["cmu_bike01_3"]


def test_spaces_in_cells_of_gopro_calibs_are_nothing(root: Any) -> None:
    take = root.add("cmu_bike01_2")
    plain = run(root).digest
    for row in take.gopros:
        row.update({name: f"  {cell} " for name, cell in row.items()})
    take.write()
    assert run(root).digest == plain


def test_both_sources_of_poses_are_compared_where_a_take_has_both(root: Any) -> None:
    root.add("cmu_bike01_2")
    root.add("cmu_bike01_3", sources="A")
    agreement = run(root).agreement
    assert agreement is not None
    assert (agreement.takes, agreement.worst_take) == (1, "cmu_bike01_2")
    assert agreement.worst.millimetres < 0.1 and agreement.worst.degrees < 0.01
