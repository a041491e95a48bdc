"""Claims about encode-latents: what it writes, and that neither kills nor workers change it."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import av
import numpy as np
import orjson
import pytest
import torch
from einops import rearrange

from exo2ego.geometry.lenses import make_lens, virtual_pinhole
from exo2ego.geometry.plucker import align_rays, ego_rays
from exo2ego.model.vae import load_codec, video_from_frames
from pipeline.encode import EncodeReport, encode_latents
from pipeline.encode_plan import Wish
from pipeline.video import Resampler, iterate_frames
from stores.errors import StoreFault
from stores.index import CameraRow, ClipIndex, ClipRecipe, ClipRow, write_index
from stores.progress import Item
from stores.stream import ClipStream
from stores.verify import verify_store
from stores.version import list_versions
from stores.zarr_store import open_store

RECIPE = ClipRecipe(frames=5, stride=2, window_step=6, views=2, hw=(32, 48))
EGO_HW, EXO_HW, FRAMES = (40, 40), (36, 64), 30
ARIA = (12.0, 12.0, 19.5, 20.5, *(0.0,) * 12)
GOPRO = (30.0, 31.0, 32.0, 18.0, 0.03, 0.01, 0.0, 0.0)


def write_video(path: Path, hw: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *hw, "yuv420p"
        for _ in range(FRAMES):
            blocks = random.integers(0, 255, (hw[0] // 4, hw[1] // 4, 3), np.uint8)
            image = np.ascontiguousarray(blocks.repeat(4, 0).repeat(4, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def camera(take: str, cam_id: str, lens: str, hw: tuple[int, int], places: int) -> CameraRow:
    poses = np.tile(np.eye(4), (places, 1, 1))
    poses[:, :3, 3] = np.arange(places * 3).reshape(places, 3) / 10 + len(cam_id)
    params = ARIA if lens == "fisheye624" else GOPRO
    turns = 1 if lens == "fisheye624" else 0
    return CameraRow(cam_id, f"takes/{take}/{cam_id}.mp4", lens, params, hw, turns, poses)


def clip(take: str, start: int, split: str) -> ClipRow:
    return ClipRow(
        clip_id=f"{take}-f{start:06d}",
        take_name=take,
        take_uid=take,
        capture_name="capture",
        participant_uid="1",
        category="Bike Repair",
        split=split,
        frames=tuple(range(start, start + 10, 2)),
        ego=camera(take, "aria01", "fisheye624", EGO_HW, 5),
        exos=tuple(camera(take, f"cam{k:02d}", "kannala_brandt", EXO_HW, 1) for k in (1, 2)),
        sets=("test-all",) if split == "test" else (),
    )


@dataclass
class Takes:
    """Three takes on disk, one of them for testing, and the index of their clips."""

    folder: Path
    rows: tuple[ClipRow, ...]

    def index(self, rows: Iterable[ClipRow] | None = None, recipe: ClipRecipe = RECIPE) -> Path:
        path = self.folder / "clips.parquet"
        chosen = self.rows if rows is None else tuple(rows)
        write_index(path, ClipIndex(str(self.folder), recipe, chosen))
        return path

    def encode(self, name: str, rows: Iterable[ClipRow] | None = None, **more) -> EncodeReport:
        options = {"vae_spec": "tiny", "clips_per_shard": 2} | more
        return encode_latents(self.index(rows), self.folder / name, **options)


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> Takes:
    folder = tmp_path_factory.mktemp("egoexo")
    splits = {"take_a": "train", "take_b": "test", "take_c": "train"}
    rows = [clip(take, start, split) for take, split in splits.items() for start in (0, 6, 12)]
    for seed, take in enumerate(splits):
        for k, view in enumerate((rows[0].ego, *rows[0].exos)):
            path = folder / view.video.replace("take_a", take)
            write_video(path, EGO_HW if k == 0 else EXO_HW, seed * 10 + k)
    return Takes(folder, tuple(rows))


@pytest.fixture(scope="module")
def whole(takes: Takes) -> EncodeReport:
    """An encode that nothing disturbed."""
    return takes.encode("whole", workers=2)


def frames_of(takes: Takes, view: CameraRow, row: ClipRow, resample: Resampler) -> torch.Tensor:
    found = [frame for _, frame in iterate_frames(takes.folder / view.video, row.frames)]
    return resample(torch.from_numpy(np.stack(found)))


def test_all_clips_are_stored_and_whole(takes: Takes, whole: EncodeReport) -> None:
    assert (whole.clips_new, whole.clips_total, whole.failed) == (9, 9, ())
    store = open_store(takes.folder / "whole")
    assert store.hash == whole.hash
    assert verify_store(store).damaged == ()
    assert store.info()["arrays"]["ego_frames"] == 3 == len(store.select(split="test"))


def test_latents_are_those_of_each_view_encoded_alone(takes: Takes, whole: EncodeReport) -> None:
    store, codec, row = open_store(takes.folder / "whole"), load_codec("tiny"), takes.rows[4]
    source = make_lens("fisheye624", ARIA, EGO_HW, 1)
    undistort = Resampler(source, virtual_pinhole(RECIPE.hw, RECIPE.ego_focal_per_side))
    views = [frames_of(takes, row.ego, row, undistort)]
    views += [frames_of(takes, exo, row, Resampler(EXO_HW, RECIPE.hw)) for exo in row.exos]
    latents = [codec.encode(video_from_frames(view[None]))[0] for view in views]
    ego = rearrange(latents[0], "c t h w -> t c h w").half().numpy()
    exos = rearrange(torch.stack(latents[1:]), "v c t h w -> t v c h w").half().numpy()
    assert (store.read("ego_latents", [row.clip_id])[0] == ego).all()
    assert (store.read("exo_latents", [row.clip_id])[0] == exos).all()
    assert (store.read("ego_frames", [row.clip_id])[0] == views[0].numpy()).all()
    assert (store.read("exo_frames", [row.clip_id])[0, 1] == views[2].numpy()).all()


@pytest.mark.parametrize("ego", ["pinhole", "fisheye"])
def test_rays_are_those_of_the_lens_that_the_frames_are_seen_through(
    takes: Takes, ego: str
) -> None:
    recipe, row = RECIPE.model_copy(update={"ego_lens": ego}), takes.rows[1]
    path = takes.index([row], recipe)
    encode_latents(path, takes.folder / f"rays-{ego}", vae_spec="tiny", workers=1)
    store = open_store(takes.folder / f"rays-{ego}")
    raw = make_lens("fisheye624", ARIA, EGO_HW, 1)
    lens = virtual_pinhole(RECIPE.hw, RECIPE.ego_focal_per_side) if ego == "pinhole" else raw
    world_from_ego = torch.from_numpy(row.ego.world_from_cam)
    world_from_exo = torch.from_numpy(np.concatenate([exo.world_from_cam for exo in row.exos]))
    rays = ego_rays(lens, world_from_ego, world_from_exo[0], RECIPE.hw)
    first = align_rays(lens, world_from_ego[0], world_from_exo, (4, 6))
    assert (store.read("ego_rays", [row.clip_id])[0] == rays.half().numpy()).all()
    assert (store.read("align_rays", [row.clip_id])[0] == first.half().numpy()).all()


def test_an_absent_view_is_nan_and_costs_the_others_nothing(
    takes: Takes, whole: EncodeReport
) -> None:
    recipe = RECIPE.model_copy(update={"views": 3, "min_views": 1})
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
    takes: Takes, whole: EncodeReport
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


def test_a_run_that_has_nothing_to_do_adds_no_version(takes: Takes, whole: EncodeReport) -> None:
    again = takes.encode("whole")
    assert (again.hash, again.clips_new, again.clips_total) == (whole.hash, 0, 9)
    assert list_versions(takes.folder / "whole") == [whole.hash]


@pytest.mark.parametrize("change", [{"workers": 1}, {"clips_per_shard": 64}])
def test_neither_workers_nor_shards_change_the_hash(
    takes: Takes, whole: EncodeReport, change: dict
) -> None:
    assert takes.encode("-".join(change), **change).hash == whole.hash


def test_clips_added_later_make_a_child_with_the_hash_of_all_at_once(
    takes: Takes, whole: EncodeReport
) -> None:
    first = takes.encode("grown", takes.rows[:4])
    second = takes.encode("grown")
    assert (second.clips_new, second.hash) == (5, whole.hash)
    assert open_store(takes.folder / "grown").version.record.parent == first.hash
    assert len(open_store(f"{takes.folder / 'grown'}@{first.hash[:8]}").clip_ids) == 4


def test_an_encode_that_stops_midway_goes_on_and_ends_the_same(
    takes: Takes, whole: EncodeReport
) -> None:
    def stop(items: Iterable[Item], /, *, total: int, what: str, unit: str) -> Iterator[Item]:
        for done, item in enumerate(items):
            if done == 4:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        takes.encode("stopped", track=stop, workers=1)
    files = {path: path.stat().st_mtime_ns for path in shards(takes.folder / "stopped")}
    with pytest.raises(StoreFault, match="no clips yet"):
        open_store(takes.folder / "stopped")
    report = takes.encode("stopped")
    assert report.hash == whole.hash
    assert report.clips_resumed >= 4
    kept = sum(path.stat().st_mtime_ns == since for path, since in files.items())
    assert files and kept == len(files)
    assert verify_store(open_store(takes.folder / "stopped")).damaged == ()


def test_a_killed_encode_goes_on_and_ends_the_same(takes: Takes, whole: EncodeReport) -> None:
    code = (
        "import os, sys, pathlib; from pipeline.encode import encode_latents\n"
        "def die(items, /, *, total, what, unit):\n"
        "    next(iter(items)); os.kill(os.getpid(), 9); yield\n"
        "encode_latents(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), vae_spec='tiny',\n"
        "    clips_per_shard=2, workers=2, track=die)"
    )
    path = takes.folder / "killed"
    run = [sys.executable, "-c", code, str(takes.index()), str(path)]
    assert subprocess.run(run, check=False, capture_output=True).returncode == -9
    assert not (path / "HEAD").exists() and shards(path)
    report = takes.encode("killed")
    assert report.hash == whole.hash and report.clips_resumed >= 1
    assert verify_store(open_store(path)).damaged == ()
    assert not list(path.rglob("*.partial"))


def shards(store: Path) -> list[Path]:
    return [path for path in store.glob("arrays/*/c/**/*") if path.is_file()]


def test_a_damaged_video_costs_its_take_only(takes: Takes) -> None:
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


def test_a_video_of_another_size_than_its_camera_is_a_failed_take(takes: Takes) -> None:
    wrong = [with_exo(takes.rows[0], replace(takes.rows[0].exos[1], hw=(72, 128)))]
    with pytest.raises(StoreFault, match="No clip could be encoded") as fault:
        takes.encode("sizes", wrong)
    assert "calibrated" in fault.value.got


def test_a_changed_camera_is_encoded_again_and_a_changed_split_is_not(takes: Takes) -> None:
    rows = list(takes.rows[:3])
    first = takes.encode("changed", rows)
    before = shards(takes.folder / "changed")
    relabelled = [replace(rows[0], split="val"), *rows[1:]]
    second = takes.encode("changed", relabelled)
    assert second.hash != first.hash and second.clips_new == 0
    assert shards(takes.folder / "changed") == before
    assert open_store(takes.folder / "changed").select(split="val") == [rows[0].clip_id]
    poses = rows[1].ego.world_from_cam + np.eye(4) * [0.0, 0.0, 0.0, 0.0]
    poses[0, 2, 3] += 0.5
    moved = replace(rows[1], ego=replace(rows[1].ego, world_from_cam=poses))
    third = takes.encode("changed", [relabelled[0], moved, rows[2]])
    assert third.clips_new == 1
    assert third.hash == takes.encode("at-once", [relabelled[0], moved, rows[2]]).hash
    old = open_store(f"{takes.folder / 'changed'}@{first.hash}")
    assert verify_store(old).damaged == ()


def test_another_recipe_is_refused_and_changes_nothing(takes: Takes, whole: EncodeReport) -> None:
    other = RECIPE.model_copy(update={"stride": 4})
    with pytest.raises(StoreFault, match=r"clips\.stride = 2"):
        encode_latents(takes.index(recipe=other), takes.folder / "whole", vae_spec="tiny")
    assert open_store(takes.folder / "whole").hash == whole.hash


def test_splits_and_frames_are_chosen(takes: Takes) -> None:
    report = takes.encode("splits", splits=("test",), wish=Wish(ego_frames=()))
    store = open_store(takes.folder / "splits")
    assert report.clips_new == 3 and store.info()["splits"] == {"test": 3}
    assert store.info()["arrays"]["ego_frames"] == 0
    takes.encode("splits", splits=("test",))
    assert open_store(takes.folder / "splits").info()["arrays"]["ego_frames"] == 3


def test_an_index_without_clips_of_the_split_is_told(takes: Takes) -> None:
    with pytest.raises(StoreFault, match="No clip could be encoded"):
        takes.encode("none", splits=("val",))


def test_nothing_leaks(takes: Takes, capfd: pytest.CaptureFixture, make_mp4: Callable) -> None:
    threads, running = torch.get_num_threads(), threading.active_count()
    takes.encode("quiet", takes.rows[:2])
    assert capfd.readouterr() == ("", "")
    assert torch.get_num_threads() == threads
    assert threading.active_count() <= running + 4
