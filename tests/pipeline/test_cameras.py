"""Claims about which cameras a clip shows, and how their videos lie: pipeline/cameras.py."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.clips import windows
from pipeline.dataset import Take
from pipeline.egoexo4d import EgoExo4D
from pipeline.rejects import REASONS, TakeRejected
from stores.recipe import ClipRecipe

RECIPE = ClipRecipe()


def load(root: Any, recipe: ClipRecipe = RECIPE) -> Take:
    """The only take of a root."""
    dataset = EgoExo4D(root.write())
    (entry,) = dataset.takes()
    return dataset.load(entry, recipe)


def why_not(root: Any) -> tuple[str, str]:
    """Reason and detail of the only take's rejection."""
    with pytest.raises(TakeRejected) as rejected:
        load(root)
    assert rejected.value.reason in REASONS
    return rejected.value.reason, rejected.value.detail


@pytest.mark.parametrize(
    ("cams", "chosen"),
    [
        (("cam05", "cam01", "cam03", "cam02", "cam04"), "cam01 cam02 cam03 cam04"),
        (("cam01", "cam03", "cam04", "cam05"), "cam01 cam03 cam04 cam05"),
        (("gp04", "gp01", "gp02", "gp05", "gp06"), "gp01 gp02 gp04 gp05"),
    ],
)
def test_the_first_four_sorted_ids_are_chosen(root: Any, cams: tuple, chosen: str) -> None:
    root.add("upenn_0710_Bike_1", cams=cams, ego="aria06")
    take = load(root)
    assert " ".join(exo.cam_id for exo in take.exos) == chosen
    assert take.ego.cam_id == "aria06"


def _worn(folder: Any) -> None:
    folder.entry["capture"]["cameras"][2]["is_ego"] = "true"


def _without_path(folder: Any) -> None:
    folder.entry["frame_aligned_videos"]["cam02"]["0"]["relative_path"] = None


def _collage(folder: Any) -> None:
    folder.entry["frame_aligned_videos"]["cam02"]["0"]["is_collage"] = True


def _quality(quality: int) -> Callable[[Any], None]:
    def change(folder: Any) -> None:
        folder.gopros[1]["quality"] = quality
        del folder.camera_pose["cam02"]

    return change


def _other_lens(folder: Any) -> None:
    folder.gopros[1]["intrinsics_type"] = "LINEAR"
    del folder.camera_pose["cam02"]


def _no_row(folder: Any) -> None:
    del folder.gopros[1], folder.camera_pose["cam02"]


@pytest.mark.parametrize(
    "change",
    [_worn, _without_path, _collage, _quality(0), _quality(-1), _other_lens, _no_row],
)
def test_a_camera_that_must_not_be_chosen_gives_way_to_the_fifth(
    root: Any, change: Callable[[Any], None]
) -> None:
    folder = root.add("cmu_bike01_2", cams=("cam01", "cam02", "cam03", "cam04", "cam05"))
    change(folder)
    folder.write()
    assert [exo.cam_id for exo in load(root).exos] == ["cam01", "cam03", "cam04", "cam05"]


def test_phones_and_pseudo_cameras_are_never_views(root: Any) -> None:
    folder = root.add("cmu_bike01_2", cams=("cam01", "cam02", "cam03"))
    reason, detail = why_not(root)
    assert reason == "too_few_exos"
    assert detail.startswith("3 of 4: cam01, cam02, cam03")
    assert "best_exo" not in detail
    assert folder.entry["frame_aligned_videos"]["best_exo"]


def test_a_take_with_two_headsets_uses_the_first_by_name(root: Any) -> None:
    folder = root.add("cmu_bike01_2")
    videos = folder.entry["frame_aligned_videos"]
    folder.entry["frame_aligned_videos"] = {"aria02": videos["aria01"], **videos}
    assert load(root).ego.cam_id == "aria01"


@pytest.mark.parametrize("source", ["calibrated", "named landscape", "annotated"])
def test_a_portrait_gopro_keeps_its_lens_on_its_own_sides(
    root: Any, make_mp4: Callable[..., bytes], source: str
) -> None:
    folder = root.add("unc_bouldering_1", frames=30)
    (folder.videos / "cam02.mp4").write_bytes(make_mp4((64, 36), 30))
    focal_px = folder.focal_px("cam02")
    row = {"intrinsics_2": 1080.0, "intrinsics_3": 1920.0}
    if source == "calibrated":
        row |= {"image_width": 2160, "image_height": 3840}
    if source == "annotated":
        del folder.gopros[1]
        k = np.array([[focal_px, 0, 1080.0], [0, focal_px, 1920.0], [0, 0, 1]])
        bend = np.array([0.036902, 0.057131, -0.057154, 0.018458])
        folder.camera_pose["cam02"]["camera_intrinsics"] = (
            cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
                k, bend, (2160, 3840), np.eye(3), balance=0.8
            ).tolist()
        )
    else:
        folder.gopros[1] |= row
    write_without_videos(folder)
    exo = load(root).exos[1]
    assert exo.hw == (64, 36)
    expected = (focal_px * 36 / 2160, focal_px * 64 / 3840, 1080.5 * 36 / 2160, 1920.5 * 64 / 3840)
    assert np.allclose(exo.params[:4], expected, rtol=1e-5)


def write_without_videos(folder: Any) -> None:
    """The take's files, with the videos that are there."""
    videos = {file: file.read_bytes() for file in folder.videos.iterdir()}
    folder.write()
    for file, body in videos.items():
        file.write_bytes(body)


def test_a_portrait_video_of_a_landscape_calibration_is_rejected(
    root: Any, make_mp4: Callable[..., bytes]
) -> None:
    folder = root.add("unc_bouldering_1", frames=30)
    (folder.videos / "cam02.mp4").write_bytes(make_mp4((64, 36), 30))
    reason, detail = why_not(root)
    assert reason == "odd_video_size" and "cam02" in detail


def recipe_of(*view_ids: str, **fields: Any) -> ClipRecipe:
    return ClipRecipe(view_ids=view_ids, **fields)


@pytest.mark.parametrize(
    ("recipe", "chosen"),
    [
        (recipe_of("cam03", "cam01", "cam05", "cam02"), "cam03 cam01 cam05 cam02"),
        (recipe_of("cam05"), "cam05"),
        (recipe_of("cam03", "cam09", "cam01", min_views=2), "cam03 cam01"),
        (recipe_of("cam09", "cam03", "cam01", min_views=2), "cam03 cam01"),
        (recipe_of(views=6, min_views=3), "cam01 cam02 cam03 cam04 cam05"),
        (recipe_of(views=2), "cam01 cam02"),
    ],
)
def test_views_are_taken_as_named_the_first_that_is_there_is_the_reference(
    root: Any, recipe: ClipRecipe, chosen: str
) -> None:
    root.add("cmu_bike01_2", cams=("cam05", "cam01", "cam03", "cam02", "cam04"))
    take = load(root, recipe)
    assert " ".join(exo.cam_id for exo in take.exos) == chosen


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (recipe_of("cam01", "cam09"), "1 of 2: cam01; cam09: no video"),
        (recipe_of("cam01", "aria01"), "1 of 2: cam01; aria01: an ego camera"),
        (recipe_of("cam01", "mobile"), "1 of 2: cam01; mobile: no video"),
        (recipe_of("cam01", "collage"), "1 of 2: cam01; collage: no video"),
    ],
)
def test_a_named_view_that_cannot_be_had_says_why(root: Any, recipe: ClipRecipe, told: str) -> None:
    root.add("cmu_bike01_2")
    with pytest.raises(TakeRejected, match=f"too_few_exos: {told}"):
        load(root, recipe)


def test_absent_views_are_marked_at_the_end_of_every_clip(root: Any) -> None:
    root.add("cmu_bike01_2", cams=("cam01", "cam02", "cam04"))
    recipe = ClipRecipe(min_views=3)
    clips = windows(load(root, recipe), recipe)
    assert clips
    for clip in clips:
        assert [exo and exo.cam_id for exo in clip.exos] == ["cam01", "cam02", "cam04", None]
        assert len(clip.present) == 3
