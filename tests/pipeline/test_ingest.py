"""Claims about a whole run, good takes and bad: pipeline/ingest.py."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.ingest import IngestFault, IngestReport, ingest
from pipeline.rejects import REASONS, read_rejects
from pipeline.simulate.clock import take_clock
from pipeline.simulate.entries import frames_of
from pipeline.simulate.rig import build_rig
from pipeline.simulate.root import simulate_root
from pipeline.simulate.scene import eye_poses
from pipeline.simulate.traits import plan_take
from pipeline.takes import DatasetFault
from stores.index import ClipRecipe, read_index

RECIPE = ClipRecipe()


def run(root: Any, **options: Any) -> IngestReport:
    """One ingest of a root, into a folder beside it."""
    return ingest(
        root.write(), root.path.with_name("out") / "clips.parquet", recipe=RECIPE, **options
    )


def _camera_pose(change: Callable[[dict], Any]) -> Callable[[Any, Any], None]:
    def damage(take: Any, make_mp4: Any) -> None:
        change(take.camera_pose)
        take.camera_pose_path.write_text(json.dumps(take.camera_pose))

    return damage


def _entry(change: Callable[[dict], Any]) -> Callable[[Any, Any], None]:
    return lambda take, make_mp4: change(take.entry)


def _video(name: str, change: Callable[[bytes], bytes]) -> Callable[[Any, Any], None]:
    def damage(take: Any, make_mp4: Any) -> None:
        file = take.videos / name
        file.write_bytes(change(file.read_bytes()))

    return damage


def _videos(**options: Any) -> Callable[[Any, Any], None]:
    def damage(take: Any, make_mp4: Any) -> None:
        for file in take.videos.iterdir():
            hw = (64, 64) if file.name.startswith("aria") else (36, 64)
            file.write_bytes(make_mp4(hw, **{"frames": 50, **options}))

    return damage


def _file(name: str, text: str | None) -> Callable[[Any, Any], None]:
    def damage(take: Any, make_mp4: Any) -> None:
        file = take.folder / "trajectory" / name
        take.camera_pose_path.unlink() if name.startswith("closed") else None
        file.unlink() if text is None else file.write_text(text)

    return damage


def _ego_pose(cells: list[list[float]]) -> Callable[[dict], Any]:
    return lambda cameras: cameras["aria01"]["camera_extrinsics"].update({"3": cells})


def _uid(uid: str) -> Callable[[Any, Any], None]:
    def damage(take: Any, make_mp4: Any) -> None:
        take.uid = take.entry["take_uid"] = uid

    return damage


def _gopros(change: Callable[[list[dict]], Any]) -> Callable[[Any, Any], None]:
    def damage(take: Any, make_mp4: Any) -> None:
        change(take.gopros)
        del take.camera_pose["cam02"]
        take.write()

    return damage


SINGULAR = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
MIRRORED = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]]
DAMAGES = {
    "dropped": [("flag", _entry(lambda entry: entry.update(is_dropped=True)))],
    "bad_name": [
        ("up", _entry(lambda entry: entry.update(take_name="../other"))),
        ("separator", _entry(lambda entry: entry.update(take_name="a/b"))),
        ("folder", _entry(lambda entry: entry.update(root_dir="/etc"))),
        ("uid", _uid("../../x")),
        (
            "video",
            _entry(
                lambda entry: entry["frame_aligned_videos"]["cam01"]["0"].update(
                    relative_path="../../../x.mp4"
                )
            ),
        ),
    ],
    "malformed_entry": [
        ("no capture", _entry(lambda entry: entry.pop("capture"))),
        ("null videos", _entry(lambda entry: entry.update(frame_aligned_videos=None))),
        ("text id", _entry(lambda entry: entry.update(task_id="?"))),
    ],
    "no_ego_camera": [
        ("no rgb", _entry(lambda entry: entry["frame_aligned_videos"]["aria01"].pop("rgb")))
    ],
    "too_few_exos": [
        ("quality 0", _gopros(lambda rows: rows[1].update(quality=" 0"))),
        ("quality unknown", _gopros(lambda rows: rows[1].update(quality="-1"))),
        ("row missing", _gopros(lambda rows: rows.pop(1))),
        ("not a number", _gopros(lambda rows: rows[1].update(intrinsics_0="?"))),
        ("no video", _entry(lambda entry: entry["frame_aligned_videos"].pop("cam02"))),
    ],
    "not_downloaded": [("folder", lambda take, make_mp4: shutil.rmtree(take.folder))],
    "missing_video": [
        ("ego", lambda take, make_mp4: (take.videos / "aria01_214-1.mp4").unlink()),
        ("exo", lambda take, make_mp4: (take.videos / "cam03.mp4").unlink()),
    ],
    "unreadable_video": [
        ("empty", _video("cam04.mp4", lambda body: b"")),
        ("cut", _video("aria01_214-1.mp4", lambda body: body[: len(body) // 2])),
        ("text", _video("cam01.mp4", lambda body: b"AccessDenied: the link has expired")),
    ],
    "wrong_fps": [("60", _videos(fps=60))],
    "frame_counts_differ": [
        ("one short", lambda take, mp4: (take.videos / "cam02.mp4").write_bytes(mp4((36, 64), 49)))
    ],
    "odd_video_size": [
        (
            "ego",
            lambda take, mp4: (take.videos / "aria01_214-1.mp4").write_bytes(mp4((36, 64), 50)),
        ),
        ("exo", lambda take, mp4: (take.videos / "cam01.mp4").write_bytes(mp4((64, 36), 50))),
    ],
    "bad_camera_pose": [
        ("cut", lambda take, mp4: take.camera_pose_path.write_text('{"metadata": {"take_')),
        ("nan", _camera_pose(_ego_pose([[float("nan")] * 4] * 3))),
        ("null", _camera_pose(lambda cameras: cameras.update(aria01={"camera_extrinsics": None}))),
        ("singular", _camera_pose(_ego_pose(SINGULAR))),
        ("mirrored", _camera_pose(_ego_pose(MIRRORED))),
        ("ragged", _camera_pose(_ego_pose([[1.0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]))),
        ("no metadata", _camera_pose(lambda cameras: cameras.pop("metadata"))),
    ],
    "camera_pose_of_other_take": [
        ("uid", _camera_pose(lambda cameras: cameras["metadata"].update(take_uid="other")))
    ],
    "video_shorter_than_poses": [("40 frames", _videos(frames=40))],
    "no_ego_poses": [("no trajectory", _file("closed_loop_trajectory.csv", None))],
    "bad_trajectory": [
        ("columns", _file("closed_loop_trajectory.csv", "a,b\n1,2\n")),
        ("cut", _file("closed_loop_trajectory.csv", "tracking_timestamp_us\n1\n2,3\n")),
        ("empty", _file("closed_loop_trajectory.csv", "")),
    ],
    "no_ego_calibration": [("missing", _file("online_calibration.jsonl", None))],
    "bad_ego_calibration": [
        ("empty", _file("online_calibration.jsonl", "")),
        ("cut", _file("online_calibration.jsonl", '{"CameraCalibrations": [{')),
        ("no rgb", _file("online_calibration.jsonl", '{"CameraCalibrations": []}')),
    ],
    "too_short": [
        ("task", _entry(lambda entry: entry.update(task_start_sec=0.5, task_end_sec=0.9))),
    ],
}
CASES = [
    pytest.param(reason, damage, id=f"{reason}-{what}")
    for reason, damages in DAMAGES.items()
    for what, damage in damages
]


@pytest.mark.parametrize(("reason", "damage"), CASES)
def test_a_bad_take_is_a_row_with_its_reason_and_the_others_go_on(
    root: Any, make_mp4: Any, reason: str, damage: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    root.add("cmu_bike01_2")
    damage(root.add("cmu_bike01_3"), make_mp4)
    report = run(root)
    assert [reject.reason for reject in report.rejects] == [reason]
    assert reason in REASONS
    assert report.rejects[0].detail
    assert (report.takes, report.clips) == (1, 1)
    assert read_rejects(report.index.with_name("rejects.parquet")) == list(report.rejects)
    assert capfd.readouterr() == ("", "")


def test_the_index_on_disk_is_the_report(root: Any) -> None:
    root.add("cmu_bike01_2", frames=100)
    root.add("cmu_bike01_3", split="test", frames=100)
    root.add("utokyo_pcr_2001_31_8", category="covid", split="val")
    report = run(root)
    index = read_index(report.index)
    assert index.digest == report.digest
    assert len(index.rows) == report.clips == 5
    assert report.takes_of == {"bike": {"test": 1, "train": 1}, "covid": {"val": 1}}
    assert report.clips_of == {"bike": {"test": 2, "train": 2}, "covid": {"val": 1}}
    assert not report.rejects
    assert not list(report.index.parent.glob("*.partial"))


def test_the_clip_index_does_not_depend_on_the_order_of_takes_json(root: Any) -> None:
    for place in range(4):
        root.add(f"cmu_bike0{place}_2", split=("train", "test")[place % 2])
    digest = run(root).digest
    random.Random(3).shuffle(root.takes)
    assert run(root).digest == digest
    moved = root.path.rename(root.path.with_name("elsewhere"))
    assert ingest(moved, moved.with_name("o.parquet"), recipe=RECIPE).digest == digest


def test_other_categories_are_counted_and_left_out_unless_asked(root: Any) -> None:
    root.add("sfu_cooking_1", category="cooking")
    root.add("nus_cpr_12_1", category="cpr")
    report = run(root)
    assert report.other_categories == {"cooking": 1}
    assert report.takes_of == {"cpr": {"train": 1}}
    assert run(root, categories=("cooking",)).takes_of == {"cooking": {"train": 1}}
    with pytest.raises(IngestFault, match="surgery"):
        run(root, categories=("surgery",))


def test_names_sort_takes_where_that_is_asked(root: Any) -> None:
    root.add("utokyo_pcr_2001_31_8", category="covid")
    root.add("unc_basketball_03-30-23_02_34", category="basketball")
    assert run(root, category_by="name").takes_of == {"basketball": {"train": 1}}
    assert run(root, category_by="id").takes == 2


def test_only_the_splits_asked_for_are_read(root: Any) -> None:
    root.add("cmu_bike01_2", split="train")
    root.add("cmu_bike01_3", split="test")
    report = run(root, splits=("test",))
    assert report.takes_of == {"bike": {"test": 1}}
    assert report.other_splits == {"train": 1}


def test_splits_and_takes_are_intersected_and_the_rest_is_told(root: Any) -> None:
    root.add("cmu_bike01_2")
    root.add("cmu_bike01_3")
    root.write()
    path = root.path / "annotations" / "splits.json"
    path.write_text(json.dumps({"split_to_take_uids": {"val": ["uid-cmu_bike01_2", "gone"]}}))
    report = ingest(root.path, root.path.with_name("clips.parquet"), recipe=RECIPE)
    assert report.takes_of == {"bike": {"val": 1}}
    assert {(reject.take_uid, reject.reason) for reject in report.rejects} == {
        ("gone", "split_without_take"),
        ("uid-cmu_bike01_3", "no_split"),
    }


def test_a_take_listed_twice_is_used_once(root: Any) -> None:
    take = root.add("cmu_bike01_2")
    root.takes.append(take)
    report = run(root)
    assert (report.takes, report.reasons) == (1, {"duplicate_take": 1})


def test_a_clip_over_a_gap_is_a_row_of_the_rejects(root: Any) -> None:
    take = root.add("cmu_bike01_2", frames=100)
    del take.camera_pose["aria01"]["camera_extrinsics"]["40"]
    take.write()
    report = run(root)
    (reject,) = report.rejects
    assert (reject.clip_id, reject.reason) == ("cmu_bike01_2-f000036", "missing_pose")
    assert report.clips == 1


@pytest.mark.parametrize("missing", ["takes.json", "annotations/splits.json"])
def test_a_folder_that_is_not_the_datasets_is_refused(root: Any, missing: str) -> None:
    root.add("cmu_bike01_2")
    (root.write() / missing).unlink()
    with pytest.raises(DatasetFault, match=missing) as fault:
        ingest(root.path, root.path / "clips.parquet", recipe=RECIPE)
    assert "takes" in str(fault.value.got)
    assert not (root.path / "clips.parquet").exists()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetFault, match="no such folder"):
        ingest(tmp_path / "none", tmp_path / "clips.parquet", recipe=RECIPE)


def test_takes_json_that_is_not_a_list_is_refused(root: Any) -> None:
    root.add("cmu_bike01_2")
    (root.write() / "takes.json").write_text('{"takes": []}')
    with pytest.raises(DatasetFault, match="list of takes"):
        ingest(root.path, root.path / "clips.parquet", recipe=RECIPE)


def test_a_simulated_root_is_read_back_as_it_was_meant(tmp_path: Path) -> None:
    seed, seconds = 3, 1.4
    simulate_root(tmp_path / "root", takes=1, seconds=seconds, seed=seed, height=16, samples=1)
    report = ingest(tmp_path / "root", tmp_path / "clips.parquet", recipe=RECIPE)
    assert set(report.reasons) == {"dropped", "missing_video", "split_without_take"}
    (clip,) = read_index(report.index).rows
    plan = plan_take(seed, 0, frames_of(seconds))
    clock = take_clock(plan)
    eyes = eye_poses(plan.category, plan.seed, clock.row_seconds, plan.seconds)
    meant = eyes[clock.nearest_rows][list(clip.frames)].numpy()
    room_from_exo = {exo.cam_id: exo.room_from_cam.numpy() for exo in build_rig(plan, eyes[0]).exos}
    for exo in clip.exos:
        found = np.linalg.inv(exo.world_from_cam[0]) @ clip.ego.world_from_cam
        assert np.abs(found - np.linalg.inv(room_from_exo[exo.cam_id]) @ meant).max() < 1e-5
