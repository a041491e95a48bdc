"""Claims about encode-latents: what it writes, and that neither kills nor workers change it."""

import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from einops import rearrange

from exo2ego.geometry.clip_lenses import video_lens
from exo2ego.geometry.lenses import virtual_pinhole
from exo2ego.geometry.plucker import align_rays, ego_rays
from exo2ego.model.vae import load_codec, video_from_frames
from pipeline.encode import EncodeReport, encode_latents
from pipeline.encode_plan import Wish
from pipeline.video import Resampler, iterate_frames
from stores.errors import StoreFault
from stores.index import CameraRow, ClipRow
from stores.progress import Track
from stores.stream import ClipStream
from stores.verify import verify_store
from stores.version import list_versions
from stores.zarr_store import open_store


def frames_of(takes: Any, view: CameraRow, row: ClipRow, resample: Resampler) -> torch.Tensor:
    found = [frame for _, frame in iterate_frames(takes.folder / view.video, row.frames)]
    return resample(torch.from_numpy(np.stack(found)))


def test_all_clips_are_stored_and_whole(takes: Any, whole: EncodeReport) -> None:
    assert (whole.clips_new, whole.clips_total, whole.failed) == (9, 9, ())
    store = open_store(takes.folder / "whole")
    assert store.hash == whole.hash
    assert verify_store(store).damaged == ()
    assert store.info()["arrays"]["ego_frames"] == 3 == len(store.select(split="test"))


def test_latents_are_those_of_each_view_encoded_alone(takes: Any, whole: EncodeReport) -> None:
    store, codec, row = open_store(takes.folder / "whole"), load_codec("tiny"), takes.rows[4]
    source = video_lens(row.ego)
    undistort = Resampler(source, virtual_pinhole(takes.recipe.hw, takes.recipe.ego_focal_per_side))
    views = [frames_of(takes, row.ego, row, undistort)]
    views += [frames_of(takes, exo, row, Resampler(exo.hw, takes.recipe.hw)) for exo in row.exos]
    latents = [codec.encode(video_from_frames(view[None]))[0] for view in views]
    ego = rearrange(latents[0], "c t h w -> t c h w").half().numpy()
    exos = rearrange(torch.stack(latents[1:]), "v c t h w -> t v c h w").half().numpy()
    assert (store.read("ego_latents", [row.clip_id])[0] == ego).all()
    assert (store.read("exo_latents", [row.clip_id])[0] == exos).all()
    assert (store.read("ego_frames", [row.clip_id])[0] == views[0].numpy()).all()
    assert (store.read("exo_frames", [row.clip_id])[0, 1] == views[2].numpy()).all()


@pytest.mark.parametrize("ego", ["pinhole", "fisheye"])
def test_rays_are_those_of_the_lens_that_the_frames_are_seen_through(takes: Any, ego: str) -> None:
    recipe, row = takes.recipe.model_copy(update={"ego_lens": ego}), takes.rows[1]
    path = takes.index([row], recipe)
    encode_latents(path, takes.folder / f"rays-{ego}", vae_spec="tiny", workers=1)
    store = open_store(takes.folder / f"rays-{ego}")
    raw = video_lens(row.ego)
    lens = (
        virtual_pinhole(takes.recipe.hw, takes.recipe.ego_focal_per_side)
        if ego == "pinhole"
        else raw
    )
    world_from_ego = torch.from_numpy(row.ego.world_from_cam)
    world_from_exo = torch.from_numpy(np.concatenate([exo.world_from_cam for exo in row.exos]))
    rays = ego_rays(lens, world_from_ego, world_from_exo[0], takes.recipe.hw)
    first = align_rays(lens, world_from_ego[0], world_from_exo, (4, 6))
    assert (store.read("ego_rays", [row.clip_id])[0] == rays.half().numpy()).all()
    assert (store.read("align_rays", [row.clip_id])[0] == first.half().numpy()).all()


def test_an_absent_view_is_nan_and_costs_the_others_nothing(
    takes: Any, whole: EncodeReport
) -> None:
    recipe = takes.recipe.model_copy(update={"views": 3, "min_views": 1})
    rows = [replace(row, exos=(*row.exos, None)) for row in takes.rows[3:6]]
    encode_latents(takes.index(rows, recipe), takes.folder / "absent", vae_spec="tiny", workers=1)
    store, ids = open_store(takes.folder / "absent"), [row.clip_id for row in rows]
    whole = open_store(takes.folder / "whole")
    for name, views in (("exo_latents", 2), ("align_rays", 1), ("exo_frames", 1)):
        there, absent = np.split(store.read(name, ids), [2], axis=views)
        assert (there == whole.read(name, ids)).all()
        assert (absent == 0).all() if name == "exo_frames" else np.isnan(absent).all()
    assert (store.read("ego_rays", ids) == whole.read("ego_rays", ids)).all()
    assert [exo and exo.cam_id for exo in store.row(ids[0]).exos] == ["cam01", "cam02", None]


def test_an_ego_camera_that_was_not_filmed_has_rays_and_no_latents(
    takes: Any, whole: EncodeReport
) -> None:
    rows = [replace(row, ego=replace(row.ego, video="")) for row in takes.rows[3:6]]
    assert takes.encode("unfilmed", rows).failed == ()
    store, ids = open_store(takes.folder / "unfilmed"), [row.clip_id for row in rows]
    other = open_store(takes.folder / "whole")
    for name in ("exo_latents", "align_rays", "ego_rays", "exo_frames"):
        assert (store.read(name, ids) == other.read(name, ids)).all()
    for name in ("ego_latents", "ego_frames"):
        with pytest.raises(StoreFault, match="no ego video") as fault:
            store.read(name, ids)
        assert "for sampling alone" in fault.value.fix
    with pytest.raises(StoreFault, match=r"take_b-f000000.*no ego video"):
        ClipStream(store, ("exo_latents", "ego_latents"), batch_size=2, seed=0, split="test")


def test_a_run_that_has_nothing_to_do_adds_no_version(takes: Any, whole: EncodeReport) -> None:
    again = takes.encode("whole")
    assert (again.hash, again.clips_new, again.clips_total) == (whole.hash, 0, 9)
    assert list_versions(takes.folder / "whole") == [whole.hash]


@pytest.mark.parametrize("change", [{"workers": 1}, {"clips_per_shard": 64}])
def test_neither_workers_nor_shards_change_the_hash(
    takes: Any, whole: EncodeReport, change: dict
) -> None:
    assert takes.encode("-".join(change), **change).hash == whole.hash


def test_clips_added_later_make_a_child_with_the_hash_of_all_at_once(
    takes: Any, whole: EncodeReport
) -> None:
    first = takes.encode("grown", takes.rows[:4])
    second = takes.encode("grown")
    assert (second.clips_new, second.hash) == (5, whole.hash)
    assert open_store(takes.folder / "grown").version.record.parent == first.hash
    assert len(open_store(f"{takes.folder / 'grown'}@{first.hash[:8]}").clip_ids) == 4


def test_an_encode_that_stops_midway_goes_on_and_ends_the_same(
    takes: Any, whole: EncodeReport, stops_after: Callable[[int], Track]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        takes.encode("stopped", track=stops_after(4), workers=1)
    files = {path: path.stat().st_mtime_ns for path in takes.files("stopped")}
    with pytest.raises(StoreFault, match="no clips yet"):
        open_store(takes.folder / "stopped")
    report = takes.encode("stopped")
    assert report.hash == whole.hash
    assert report.clips_resumed >= 4
    kept = sum(path.stat().st_mtime_ns == since for path, since in files.items())
    assert files and kept == len(files)
    assert verify_store(open_store(takes.folder / "stopped")).damaged == ()


def test_a_damaged_video_costs_its_take_only(takes: Any) -> None:
    bad = takes.rows[3].exos[1].video.replace("take_b", "take_z")
    (takes.folder / bad).parent.mkdir(exist_ok=True)
    (takes.folder / bad).write_bytes((takes.folder / takes.rows[0].ego.video).read_bytes()[:999])
    broken = replace(takes.rows[3].exos[1], video=bad)
    rows = [*takes.rows[:3], *(with_exo(row, broken) for row in takes.rows[3:6])]
    report = takes.encode("rejects", rows)
    assert report.clips_new == 3
    (failed,) = report.failed
    assert failed.clip_ids == tuple(row.clip_id for row in takes.rows[3:6])
    assert "take_z" in failed.reason and failed.attempts == 2
    rejects = orjson.loads((takes.folder / "rejects" / "rejects.json").read_bytes())
    assert rejects == [asdict(failed) | {"clip_ids": list(failed.clip_ids)}]
    again = takes.encode("rejects", rows)
    assert (again.hash, again.failed[0].attempts) == (report.hash, 4)
    mended = takes.encode("rejects", takes.rows[:6])
    assert (mended.clips_new, mended.failed) == (3, ())
    assert not (takes.folder / "rejects" / "rejects.json").exists()
    assert mended.hash == takes.encode("never-broken", takes.rows[:6]).hash


def with_exo(row: ClipRow, exo: CameraRow) -> ClipRow:
    return replace(row, exos=(row.exos[0], exo))


def test_a_video_of_another_size_than_its_camera_is_a_failed_take(takes: Any) -> None:
    wrong = [with_exo(takes.rows[0], replace(takes.rows[0].exos[1], hw=(72, 128)))]
    with pytest.raises(StoreFault, match="No clip could be encoded") as fault:
        takes.encode("sizes", wrong)
    assert "calibrated" in fault.value.got


def test_a_changed_camera_is_encoded_again_and_a_changed_split_is_not(takes: Any) -> None:
    rows = list(takes.rows[:3])
    first = takes.encode("changed", rows)
    before = takes.files("changed")
    relabelled = [replace(rows[0], split="val"), *rows[1:]]
    second = takes.encode("changed", relabelled)
    assert second.hash != first.hash and second.clips_new == 0
    assert takes.files("changed") == before
    assert open_store(takes.folder / "changed").select(split="val") == [rows[0].clip_id]
    poses = rows[1].ego.world_from_cam + np.eye(4) * [0.0, 0.0, 0.0, 0.0]
    poses[0, 2, 3] += 0.5
    moved = replace(rows[1], ego=replace(rows[1].ego, world_from_cam=poses))
    third = takes.encode("changed", [relabelled[0], moved, rows[2]])
    assert third.clips_new == 1
    assert third.hash == takes.encode("at-once", [relabelled[0], moved, rows[2]]).hash
    old = open_store(f"{takes.folder / 'changed'}@{first.hash}")
    assert verify_store(old).damaged == ()


def test_another_recipe_is_refused_and_changes_nothing(takes: Any, whole: EncodeReport) -> None:
    other = takes.recipe.model_copy(update={"stride": 4})
    with pytest.raises(StoreFault, match=r"clips\.stride = 2"):
        encode_latents(takes.index(recipe=other), takes.folder / "whole", vae_spec="tiny")
    assert open_store(takes.folder / "whole").hash == whole.hash


def test_splits_and_frames_are_chosen(takes: Any) -> None:
    report = takes.encode("splits", splits=("test",), wish=Wish(ego_frames=()))
    store = open_store(takes.folder / "splits")
    assert report.clips_new == 3 and store.info()["splits"] == {"test": 3}
    assert store.info()["arrays"]["ego_frames"] == 0
    takes.encode("splits", splits=("test",))
    assert open_store(takes.folder / "splits").info()["arrays"]["ego_frames"] == 3


def test_an_index_without_clips_of_the_split_is_told(takes: Any) -> None:
    with pytest.raises(StoreFault, match="No clip could be encoded"):
        takes.encode("none", splits=("val",))


def test_nothing_leaks(takes: Any, capfd: pytest.CaptureFixture, make_mp4: Callable) -> None:
    threads, running = torch.get_num_threads(), threading.active_count()
    takes.encode("quiet", takes.rows[:2])
    assert capfd.readouterr() == ("", "")
    assert torch.get_num_threads() == threads
    assert threading.active_count() <= running + 4
