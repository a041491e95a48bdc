"""Claims about recordings that a rig.json tells of: pipeline/rig.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.clips import windows
from pipeline.dataset import Dataset, Take
from pipeline.ingest import ingest
from pipeline.rejects import REASONS, TakeRejected
from pipeline.rig import Rig, RigFault
from stores.index import read_index
from stores.recipe import ClipRecipe

RECIPE = ClipRecipe(frames=5, stride=2, views=2, hw=(32, 48))
FRAMES, EGO_HW, EXO_HW = 20, (64, 40), (36, 64)
Change = Callable[[dict[str, Any]], Any]


def pose(x_metres: float) -> list[list[float]]:
    """A camera that looks along world y, x metres to the right."""
    return [[1, 0, 0, x_metres], [0, 0, 1, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]]


def exo(number: int) -> dict[str, Any]:
    return {
        "id": f"side{number}",
        "role": "exo",
        "video": f"desk/side{number}.mp4",
        "lens": {
            "kind": "kannala_brandt",
            "params": [300, 301, 319.5, 179.5, 0.03, 0.01, 0, 0],
            "hw": [360, 640],
            "pixel_centre": 0,
        },
        "pose": {"world_from_cam": pose(number)},
    }


def ego() -> dict[str, Any]:
    return {
        "id": "glasses",
        "role": "ego",
        "video": "desk/glasses.mp4",
        "lens": {
            "kind": "pinhole",
            "params": [50, 52, 32, 20],
            "hw": [40, 64],
            "pixel_centre": 0.5,
        },
        "quarter_turns_cw": 1,
        "pose": {"frames": {str(frame): pose(frame / 10) for frame in range(FRAMES - 2)}},
    }


@pytest.fixture
def rig(tmp_path: Path, make_mp4: Callable[..., bytes]) -> dict[str, Any]:
    """A rig's description; its videos are on disk."""
    (tmp_path / "desk").mkdir()
    for number in (1, 2, 3):
        (tmp_path / f"desk/side{number}.mp4").write_bytes(make_mp4(EXO_HW, FRAMES))
    (tmp_path / "desk/glasses.mp4").write_bytes(make_mp4(EGO_HW, FRAMES))
    take = {"name": "desk_1", "category": "typing", "split": "val", "fps": 30}
    return {"format": 1, "takes": [take | {"cameras": [exo(3), exo(1), ego(), exo(2)]}]}


def load(folder: Path, rig: dict[str, Any], recipe: ClipRecipe = RECIPE) -> Take:
    (folder / "rig.json").write_text(json.dumps(rig))
    dataset: Dataset = Rig(folder)
    (entry,) = dataset.takes()
    return dataset.load(entry, recipe)


def test_a_rigs_take_is_a_take_like_any_other(tmp_path: Path, rig: dict[str, Any]) -> None:
    take = load(tmp_path, rig)
    assert [exo.cam_id for exo in take.exos] == ["side1", "side2"]
    assert (take.frame_count, take.category, take.split) == (FRAMES, "typing", "val")
    first, *_ = windows(take, RECIPE)
    assert first.clip_id == "desk_1-f000000"
    assert first.ego.world_from_cam[:, 0, 3].tolist() == [0.0, 0.2, 0.4, 0.6, 0.8]


def test_lenses_are_scaled_to_the_videos_and_shifted_to_our_centres(
    tmp_path: Path, rig: dict[str, Any]
) -> None:
    take = load(tmp_path, rig)
    assert np.allclose(take.exos[0].params[:4], (30, 30.1, 32, 18), rtol=1e-12)
    assert take.exos[0].hw == EXO_HW
    assert (take.ego.params, take.ego.hw) == ((50, 52, 32, 20), (40, 64))


def test_a_rig_is_ingested_as_ego_exo4d_is(tmp_path: Path, rig: dict[str, Any]) -> None:
    rig["takes"].append(rig["takes"][0] | {"name": "desk_2", "fps": 25})
    (tmp_path / "rig.json").write_text(json.dumps(rig))
    report = ingest(Rig(tmp_path), tmp_path / "out" / "clips.parquet", recipe=RECIPE)
    assert (report.takes, report.clips, report.reasons) == (1, 1, {"wrong_fps": 1})
    index = read_index(report.index)
    assert index.root == str(tmp_path)
    assert [row.present[0].video for row in index.rows] == ["desk/side1.mp4"]


def test_what_a_take_depends_on_is_named(tmp_path: Path, rig: dict[str, Any]) -> None:
    (tmp_path / "rig.json").write_text(json.dumps(rig))
    (entry,) = Rig(tmp_path).takes()
    inputs = Rig(tmp_path).inputs(entry)
    assert {path.name for path in inputs} == {
        *("rig.json", "glasses.mp4", "side1.mp4", "side2.mp4", "side3.mp4")
    }


def test_frames_without_a_pose_bear_no_clip(tmp_path: Path, rig: dict[str, Any]) -> None:
    del rig["takes"][0]["cameras"][2]["pose"]["frames"]["12"]
    take = load(tmp_path, rig)
    assert np.flatnonzero(np.isnan(take.ego.world_from_cam[:, 0, 0])).tolist() == [12, 18, 19]
    assert [clip.frames[0] for clip in windows(take, RECIPE)] == [0]


@pytest.mark.parametrize("ending", ["npy", "json"])
def test_poses_may_lie_in_a_file_of_their_own(
    tmp_path: Path, rig: dict[str, Any], ending: str
) -> None:
    by_frame = [pose(frame / 10) for frame in range(FRAMES - 2)]
    gap = [*by_frame[:5], None, *by_frame[6:]]
    if ending == "json":
        (tmp_path / "ego.json").write_text(json.dumps(gap))
    else:
        np.save(tmp_path / "ego.npy", [np.full((4, 4), np.nan) if m is None else m for m in gap])
    rig["takes"][0]["cameras"][2]["pose"] = {"per_frame": f"ego.{ending}"}
    poses = load(tmp_path, rig).ego.world_from_cam
    assert np.flatnonzero(np.isnan(poses[:, 0, 0])).tolist() == [5, 18, 19]
    assert poses[7].tolist() == pose(0.7)


def test_an_ego_camera_without_a_video_keeps_its_camera(
    tmp_path: Path, rig: dict[str, Any]
) -> None:
    rig["takes"][0]["cameras"][2] |= {"video": None}
    take = load(tmp_path, rig)
    assert (take.ego.video, take.ego.hw, take.ego.quarter_turns_cw) == ("", (40, 64), 1)
    assert take.frame_count == FRAMES


def test_views_are_chosen_by_name_and_too_few_are_told(tmp_path: Path, rig: dict[str, Any]) -> None:
    chosen = ClipRecipe(frames=5, view_ids=("side3", "side1"))
    assert [exo.cam_id for exo in load(tmp_path, rig, chosen).exos] == ["side3", "side1"]
    with pytest.raises(TakeRejected, match=r"too_few_exos: 1 of 2: side1; side9: no such"):
        load(tmp_path, rig, ClipRecipe(frames=5, view_ids=("side9", "side1")))


def _camera(place: int, **fields: Any) -> Change:
    return lambda rig: rig["takes"][0]["cameras"][place].update(fields)


def _take(**fields: Any) -> Change:
    return lambda rig: rig["takes"][0].update(fields)


def _lens(**fields: Any) -> Change:
    return lambda rig: rig["takes"][0]["cameras"][0]["lens"].update(fields)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_take(colour="red"), "takes.0.colour"),
        (_take(split="other"), "'train', 'val' or 'test'"),
        (_take(fps="30"), "takes.0.fps"),
        (_take(name="../desk"), "not the name of a file"),
        (_camera(0, id="side1"), "a camera's id is there twice"),
        (_camera(0, role="ego"), "2 of 4 cameras are ego"),
        (_camera(0, video=None), "exo camera side3 has no video"),
        (_camera(0, video="/etc/passwd"), "leads out of the rig's folder"),
        (_camera(0, pose={"per_frame": "a.npy"}), "must stand still"),
        (_camera(0, pose={}), "one of world_from_cam, per_frame, frames"),
        (_camera(0, pose={"world_from_cam": np.zeros((4, 4)).tolist()}), "last row"),
        (_camera(0, pose={"world_from_cam": [[1, 0], [0, 1]]}), "world_from_cam"),
        (_lens(params=[300, 301]), "2 parameters, but it has 8"),
        (_lens(params=[-1, 301, 1, 1, 0, 0, 0, 0]), "must be positive"),
        (_lens(kind="brown"), "lens.kind"),
        (_lens(pixel_centre=1), "pixel_centre is 1"),
        (lambda rig: rig.update(format=2), "format"),
        (lambda rig: rig["takes"].append(rig["takes"][0]), "there twice: desk_1"),
    ],
)
def test_a_rig_that_contradicts_itself_is_refused_by_the_field(
    tmp_path: Path, rig: dict[str, Any], change: Change, told: str
) -> None:
    change(rig)
    with pytest.raises(RigFault, match=told) as fault:
        load(tmp_path, rig)
    assert "rig.json" in str(fault.value)


def test_an_ego_without_video_cannot_be_for_training(tmp_path: Path, rig: dict[str, Any]) -> None:
    rig["takes"][0]["cameras"][2]["video"] = None
    rig["takes"][0]["split"] = "train"
    with pytest.raises(RigFault, match="no ego video, so it cannot be trained on"):
        load(tmp_path, rig)


@pytest.mark.parametrize("text", [None, "", "{", "[]"])
def test_a_file_that_is_no_rig_is_told(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "rig.json").write_text(text)
    with pytest.raises(RigFault, match=r"rig\.json"):
        Rig(tmp_path).takes()


def _file(name: str, body: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(body)


@pytest.mark.parametrize(
    ("damage", "change", "reason"),
    [
        (lambda folder: (folder / "desk/side2.mp4").unlink(), _take(), "missing_video"),
        (_file("desk/side2.mp4", b""), _take(), "unreadable_video"),
        (lambda folder: None, _take(fps=25.0), "wrong_fps"),
        (lambda folder: None, _lens(hw=[360, 360]), "odd_video_size"),
        (lambda folder: None, _camera(2, pose={"frames": {"20": pose(0)}}), "video_shorter"),
        (lambda folder: None, _camera(2, pose={"per_frame": "no.npy"}), "unreadable_file"),
        (_file("e.npy", b"no array"), _camera(2, pose={"per_frame": "e.npy"}), "bad_camera_pose"),
        (_file("e.json", b"[[1]]"), _camera(2, pose={"per_frame": "e.json"}), "bad_camera_pose"),
        (_file("e.json", b"{"), _camera(2, pose={"per_frame": "e.json"}), "bad_camera_pose"),
    ],
)
def test_a_take_that_cannot_be_used_is_rejected_alone(
    tmp_path: Path, rig: dict[str, Any], damage: Callable, change: Change, reason: str
) -> None:
    change(rig)
    damage(tmp_path)
    with pytest.raises(TakeRejected) as rejected:
        load(tmp_path, rig, ClipRecipe(frames=5, views=3))
    assert rejected.value.reason.startswith(reason)
    assert rejected.value.reason in REASONS
