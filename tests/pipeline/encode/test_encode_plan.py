"""Claims about what an encode makes again: by array, and never more than a correction asks for."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from exo2ego.geometry.clip_rays import CLIP_RAYS
from pipeline.encode_plan import DEPENDS_ON, ClipWork, Wish, pack, plan_encode, take_over
from stores.index import CameraRow, ClipRow
from stores.journal import FinishedShard
from stores.schema import ARRAYS
from stores.verify import verify_store
from stores.version import clip_digest
from stores.zarr_store import open_store

RAYS = {"align_rays", "ego_rays"}
EGO, EXO = {"ego_latents", "ego_frames"}, {"exo_latents", "exo_frames"}


def moved(camera: CameraRow, place: int = 0) -> CameraRow:
    poses = camera.world_from_cam.copy()
    poses[place, 1, 3] += 0.25
    return replace(camera, world_from_cam=poses)


def bent(camera: CameraRow) -> CameraRow:
    params = (camera.params[0] * 1.01, *camera.params[1:])
    return replace(camera, params=params)


def exo(row: ClipRow, view: int, camera: CameraRow) -> ClipRow:
    exos = list(row.exos)
    exos[view] = camera
    return replace(row, exos=tuple(exos))


CORRECTIONS = {
    "first ego pose": (lambda r: replace(r, ego=moved(r.ego)), {}, RAYS),
    "a later ego pose": (lambda r: replace(r, ego=moved(r.ego, 2)), {}, {"ego_rays"}),
    "reference's pose": (lambda r: exo(r, 0, moved(r.exos[0])), {}, RAYS),
    "another exo's pose": (lambda r: exo(r, 1, moved(r.exos[1])), {}, {"align_rays"}),
    "ego lens": (lambda r: replace(r, ego=bent(r.ego)), {}, EGO),
    "raw ego lens": (lambda r: replace(r, ego=bent(r.ego)), {"ego_lens": "fisheye"}, RAYS),
    "raw exo lens": (lambda r: exo(r, 1, bent(r.exos[1])), {}, set()),
    "exo lens": (lambda r: exo(r, 1, bent(r.exos[1])), {"exo_lens": "pinhole"}, EXO),
    "another exo video": (
        lambda r: exo(r, 1, replace(r.exos[1], video=r.exos[0].video)),
        {},
        EXO,
    ),
    "other frames": (lambda r: replace(r, frames=tuple(f + 1 for f in r.frames)), {}, EGO | EXO),
    "the split's name": (lambda r: replace(r, category="Music"), {}, set()),
}


@pytest.mark.parametrize("name", CORRECTIONS)
def test_a_correction_rewrites_what_depends_on_it_and_ends_as_a_fresh_encode(
    takes: Any, name: str
) -> None:
    correct, changes, expected = CORRECTIONS[name]
    recipe = takes.recipe.model_copy(update=changes)
    rows = list(takes.rows[3:5])
    store, fresh = f"{name}", f"{name}, fresh"
    first = takes.encode(store, rows, recipe=recipe)
    before = takes.files(store)
    rows[1] = correct(rows[1])
    second = takes.encode(store, rows, recipe=recipe)
    assert takes.written(store, before) == expected
    assert second.hash == takes.encode(fresh, rows, recipe=recipe).hash != first.hash
    assert second.clips_new == bool(expected)
    version = open_store(takes.folder / store)
    assert verify_store(version).damaged == ()
    old = open_store(f"{takes.folder / store}@{first.hash}").row(rows[1].clip_id)
    new = version.row(rows[1].clip_id)
    assert {a for a in ARRAYS if new.rows[a] != old.rows[a]} == expected


def test_views_that_did_not_change_are_not_even_opened(takes: Any) -> None:
    rows = list(takes.rows[3:5])
    takes.encode("one view", rows)
    rows[0] = exo(rows[0], 1, replace(rows[0].exos[1], video=rows[1].exos[0].video))
    lost = [takes.folder / rows[0].ego.video, takes.folder / takes.rows[3].exos[1].video]
    for path in lost:
        path.rename(path.with_suffix(".gone"))
    try:
        report = takes.encode("one view", rows)
    finally:
        for path in lost:
            path.with_suffix(".gone").rename(path)
    assert report.failed == ()
    assert report.hash == takes.encode("one view, fresh", rows).hash


def test_frames_that_are_wanted_later_are_decoded_and_nothing_else_is_written(takes: Any) -> None:
    rows = takes.rows[:3]
    takes.encode("frames", rows)
    before = takes.files("frames")
    report = takes.encode("frames", rows, wish=Wish(ego_frames=("all",)))
    assert takes.written("frames", before) == {"ego_frames", "exo_frames"}
    fresh = takes.encode("frames at once", rows, wish=Wish(ego_frames=("train",)))
    assert report.hash == fresh.hash
    assert takes.encode("frames", rows).hash == report.hash


def test_factored_rays_have_the_hash_of_stored_ones_and_no_rows(takes: Any) -> None:
    rows = list(takes.rows[:3])
    stored = takes.encode("stored", rows)
    factored = takes.encode("factored", rows, wish=Wish(rays="factored"))
    assert factored.hash == stored.hash
    assert takes.written("factored", {}) == {"exo_latents", "ego_latents"}
    one, other = (open_store(takes.folder / s, derive=CLIP_RAYS) for s in ("stored", "factored"))
    for name in CLIP_RAYS:
        assert (one.read(name, one.clip_ids) == other.read(name, one.clip_ids)).all()
    assert takes.encode("factored", rows, wish=Wish(rays="factored")).clips_new == 0
    rows[1] = replace(rows[1], ego=moved(rows[1].ego))
    before = takes.files("factored")
    corrected = takes.encode("factored", rows, wish=Wish(rays="factored"))
    assert takes.written("factored", before) == set()
    assert corrected.hash == takes.encode("stored", rows).hash
    assert takes.encode("factored", rows).hash == corrected.hash
    assert takes.written("factored", before) == RAYS
    assert verify_store(open_store(takes.folder / "factored")).damaged == ()
    before = takes.files("factored")
    assert takes.encode("factored", rows, wish=Wish(rays="factored")).hash == corrected.hash
    assert takes.files("factored") == before


def test_every_array_says_what_it_depends_on() -> None:
    assert DEPENDS_ON.keys() == ARRAYS.keys()


def test_shards_hold_whole_takes_while_they_fit_and_long_takes_are_cut(takes: Any) -> None:
    work = plan_encode(takes.recipe, [], takes.rows, Wish(ego_frames=())).work
    sizes = {size: [len(s.work) for s in pack(work, size, 5)] for size in (1, 2, 3, 4, 6, 7, 64)}
    assert sizes[1] == [1] * 9
    assert sizes[2] == [2, 1, 2, 1, 2, 1]
    assert sizes[3] == sizes[4] == [3, 3, 3]
    assert sizes[6] == sizes[7] == [6, 3]
    assert sizes[64] == [9]
    assert [shard.number for shard in pack(work, 4, 5)] == [5, 6, 7]


def finished(work: tuple[ClipWork, ...], arrays: tuple[str, ...]) -> FinishedShard:
    digests = {name: ["00"] * len(work) for name in arrays}
    ids = tuple(piece.clip.clip_id for piece in work)
    return FinishedShard(3, ids, tuple(clip_digest(piece.clip) for piece in work), digests)


def test_a_finished_shard_is_taken_over_if_all_of_it_is_wanted(takes: Any) -> None:
    work = plan_encode(takes.recipe, [], takes.rows[:3], Wish(ego_frames=("train",))).work
    usual = tuple(name for name, spec in ARRAYS.items() if spec.every_clip)
    some = finished(work[1:], usual)
    taken, left = take_over([some], work)
    assert taken == [some]
    assert [piece.arrays for piece in left] == [tuple(ARRAYS), *[("ego_frames", "exo_frames")] * 2]
    whole = finished(work, tuple(ARRAYS))
    assert take_over([whole], work) == ([whole], [])
    assert take_over([some, whole], work)[0] == [some]
    other = replace(some, clip_digests=("00", "11"))
    assert take_over([other], work) == ([], list(work))
    assert take_over([whole], work[:2]) == ([], list(work[:2]))


def test_an_absent_view_that_comes_is_made_and_the_others_stay(takes: Any) -> None:
    recipe = takes.recipe.model_copy(update={"min_views": 1})
    whole = list(takes.rows[3:5])
    lacking = [exo(row, 1, None) for row in whole]
    one = takes.encode("lacking", lacking, recipe=recipe)
    two = takes.encode("lacking", whole, recipe=recipe)
    assert two.hash == takes.encode("not lacking", whole, recipe=recipe).hash
    three = takes.encode("lacking", lacking, recipe=recipe)
    assert three.hash == one.hash
    latents = open_store(takes.folder / "lacking").read("exo_latents", [whole[0].clip_id])
    assert np.isnan(latents[:, :, 1]).all() and np.isfinite(latents[:, :, 0]).all()
