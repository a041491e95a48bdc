"""The verb simulate: a root as Ego-Exo4D's, whole, resumable, and the same for the same seed."""

import csv
import hashlib
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from exo2ego.geometry.camera import rigid_from_quaternion
from pipeline.simulate import root as root_module
from pipeline.simulate.film import VideoFile
from pipeline.simulate.root import SimulatedRoot, SimulationFault, simulate_root
from pipeline.simulate.scene import CATEGORIES
from pipeline.simulate.sheet import draw_sheet
from pipeline.simulate.traits import plan_take, splits_of_fours

SECONDS, FRAMES = 0.2, 6
SMALL: dict[str, Any] = {"seconds": SECONDS, "height": 28, "samples": 1}
CLI = Path(__file__).parents[2] / "cli.py"
ARIA = Path(__file__).parents[1] / "fixtures" / "aria"

TAKE_KEYS = [
    "root_dir",
    "take_name",
    "participant_uid",
    "is_dropped",
    "objects",
    "task_id",
    "task_name",
    "parent_task_id",
    "parent_task_name",
    "take_idx",
    "duration_sec",
    "best_exo",
    "task_start_sec",
    "task_end_sec",
    "task_timing_annotation_uid",
    "is_narrated",
    "capture_uid",
    "take_uid",
    "take_timing_uid",
    "timesync_uid",
    "timesync_start_idx",
    "timesync_end_idx",
    "frame_aligned_videos",
    "vrs_all_streams_relative_path",
    "vrs_relative_path",
    "trimmed_eye_gaze_relative_path",
    "trimmed_trajectory_relative_path",
    "has_trimmed_eye_gaze",
    "has_trimmed_trajectory",
    "has_trimmed_vrs",
    "university_id",
    "university_name",
    "origin_id",
    "capture",
    "physical_setting_uid",
    "validated",
]


def load(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_bytes())


def lines_of(path: Path) -> list[Any]:
    """The objects of a file with one a line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def digests(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, blanks around cells removed."""
    with path.open() as file:
        return [{key: cell.strip() for key, cell in row.items()} for row in csv.DictReader(file)]


def poses(table: list[dict[str, str]], frame: str) -> np.ndarray:
    """The poses of a table, world from `frame`."""
    cells = [[float(row[f"{c}_world_{frame}"]) for c in POSE] for row in table]
    table_of = torch.tensor(cells, dtype=torch.float64)
    return rigid_from_quaternion(table_of[:, 3:], table_of[:, :3]).numpy()


POSE = ("tx", "ty", "tz", "qx", "qy", "qz", "qw")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRoot:
    """Four takes, one of each category."""
    return simulate_root(tmp_path_factory.mktemp("four") / "root", takes=4, seed=9, **SMALL)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> SimulatedRoot:
    """Two takes of the same seed."""
    return simulate_root(tmp_path_factory.mktemp("two") / "root", takes=2, seed=9, **SMALL)


def entries(four: SimulatedRoot) -> list[dict[str, Any]]:
    """The entries of the takes that have videos."""
    return load(four.root / "takes.json")[:4]


def pose_file(four: SimulatedRoot, entry: dict[str, Any]) -> dict[str, Any]:
    """camera_pose of an entry."""
    split = load(four.root / "annotations/splits.json")["take_uid_to_split"][entry["take_uid"]]
    uid = entry["take_uid"]
    return load(four.root / f"annotations/ego_pose/{split}/camera_pose/{uid}.json")


def test_every_take_entry_has_every_key_of_the_real_ones(four: SimulatedRoot):
    for entry in load(four.root / "takes.json"):
        assert list(entry) == TAKE_KEYS
        assert uuid.UUID(entry["take_uid"]).version == 4
        length = entry["timesync_end_idx"] - entry["timesync_start_idx"]
        assert length == round(entry["duration_sec"] * 30)
    captures = {capture["capture_name"] for capture in load(four.root / "captures.json")}
    assert captures == {e["capture"]["capture_name"] for e in load(four.root / "takes.json")}


def test_videos_are_h264_of_the_takes_length_at_30_frames(four: SimulatedRoot):
    for entry in entries(four):
        ego = next(name for name in entry["frame_aligned_videos"] if name.startswith("aria"))
        cams = {ego: entry["frame_aligned_videos"][ego]["rgb"]["relative_path"]}
        for name, streams in entry["frame_aligned_videos"].items():
            if name.startswith(("cam", "gp")):
                cams[name] = streams["0"]["relative_path"]
        assert len(cams) in (5, 6)
        for name, path in cams.items():
            small = Path(path).parent / "downscaled/448" / Path(path).name
            with av.open(str(four.root / entry["root_dir"] / small)) as video:
                stream = video.streams.video[0]
                assert stream.codec_context.name == "h264"
                assert stream.codec_context.pix_fmt == "yuv420p"
                assert (stream.average_rate, stream.frames) == (30, FRAMES)
                assert (stream.height, stream.width) == ((28, 28) if name == ego else (28, 50))


def test_ego_poses_are_two_fewer_than_frames_and_lie_on_their_side(four: SimulatedRoot):
    for entry in entries(four):
        content = pose_file(four, entry)
        ego = next(name for name in content if name.startswith("aria"))
        assert list(content[ego]["camera_extrinsics"]) == [str(i) for i in range(FRAMES - 2)]
        assert content[ego]["camera_intrinsics"] == [[150, 0, 255.5], [0, 150, 255.5], [0, 0, 1]]
        for extrinsics in content[ego]["camera_extrinsics"].values():
            up_in_camera = np.array(extrinsics)[:, 2]
            assert up_in_camera[0] < 0 and abs(up_in_camera[1]) < 0.3


def test_exo_poses_are_the_inverses_of_gopro_calibs(four: SimulatedRoot):
    for entry in entries(four):
        content = pose_file(four, entry)
        table = rows(four.root / entry["root_dir"] / "trajectory/gopro_calibs.csv")
        assert {row["cam_uid"] for row in table} == {n for n in content if n.startswith("cam")}
        for row, pose in zip(table, poses(table, "cam"), strict=True):
            extrinsics = np.array(content[row["cam_uid"]]["camera_extrinsics"])
            np.testing.assert_allclose(extrinsics, np.linalg.inv(pose)[:3], atol=1e-5)


def test_ego_poses_are_those_of_the_nearest_trajectory_row(four: SimulatedRoot):
    for entry in entries(four):
        folder = four.root / entry["root_dir"] / "trajectory"
        table = rows(folder / "closed_loop_trajectory.csv")
        stamps = np.array([int(row["tracking_timestamp_us"]) for row in table])
        lines = lines_of(folder / "online_calibration.jsonl")
        sync = rows(four.root / "captures" / entry["capture"]["capture_name"] / "timesync.csv")
        content = pose_file(four, entry)
        ego = next(name for name in content if name.startswith("aria"))
        camera = lines[0]["CameraCalibrations"][2]["T_Device_Camera"]
        w, xyz = camera["UnitQuaternion"]
        device_from_cam = rigid_from_quaternion(
            torch.tensor([*xyz, w]).double(), torch.tensor(camera["Translation"]).double()
        ).numpy()
        device = poses(table, "device")
        for frame, extrinsics in content[ego]["camera_extrinsics"].items():
            row = sync[entry["timesync_start_idx"] + int(frame)]
            time = int(row[f"{ego}_214-1_capture_timestamp_ns"]) / 1000
            assert time == lines[int(frame)]["tracking_timestamp_us"]
            world_from_cam = device[np.abs(stamps - time).argmin()] @ device_from_cam
            expected = np.linalg.inv(world_from_cam)[:3]
            np.testing.assert_allclose(np.array(extrinsics), expected, atol=2e-6)


def test_tables_have_the_headers_of_real_files(four: SimulatedRoot):
    folder = four.root / entries(four)[0]["root_dir"] / "trajectory"
    for name in ("closed_loop_trajectory.csv", "gopro_calibs.csv"):
        ours, real = ((place / name).read_text().splitlines()[0] for place in (folder, ARIA))
        assert ours == real
    assert (folder / "gopro_calibs.csv").read_text().splitlines()[1].startswith(" cam")
    ours, real = (lines_of(place / "online_calibration.jsonl")[0] for place in (folder, ARIA))
    assert set(ours) == set(real)
    assert set(ours["CameraCalibrations"][2]) <= set(real["CameraCalibrations"][2])


def test_odd_cameras_strays_and_missing_files_are_there(four: SimulatedRoot):
    takes = load(four.root / "takes.json")
    exos = [[n for n in e["frame_aligned_videos"] if n.startswith("cam")] for e in takes[:4]]
    assert exos[2] == ["cam01", "cam02", "cam03", "cam04", "cam05"]
    assert exos[3] == ["cam01", "cam03", "cam04", "cam05"]
    assert "aria02" in takes[1]["frame_aligned_videos"]
    assert takes[4]["is_dropped"] and not (four.root / takes[4]["root_dir"]).exists()
    assert not (four.root / takes[5]["root_dir"] / "frame_aligned_videos").exists()
    splits = load(four.root / "annotations/splits.json")
    strays = set(splits["take_uid_to_split"]) - {entry["take_uid"] for entry in takes}
    assert len(strays) == 1
    assert all(splits["split_to_take_uids"].values())
    flags = {type(c["is_ego"]) for entry in takes for c in entry["capture"]["cameras"]}
    assert flags == {bool, str}


def test_a_take_is_the_same_whatever_other_takes_there_are(four: SimulatedRoot, two: SimulatedRoot):
    for name in two.take_names:
        assert digests(two.root / "takes" / name) == digests(four.root / "takes" / name)


def test_takes_that_two_processes_draw_are_the_same(two: SimulatedRoot, tmp_path: Path):
    apart = simulate_root(tmp_path / "root", takes=2, seed=9, workers=2, **SMALL)
    assert apart.takes_new == 2
    assert digests(apart.root) == digests(two.root)


def test_no_worker_outlives_a_simulation_that_is_killed(tmp_path: Path):
    words = ["simulate", tmp_path / "root", "--takes", 8, "--height", 128, "--workers", 2]
    with subprocess.Popen([sys.executable, CLI, *map(str, words)]) as run:
        while len(children := psutil.Process(run.pid).children(recursive=True)) < 2:
            time.sleep(0.05)
        while not list((tmp_path / "root").glob("takes/.*.partial")):
            time.sleep(0.05)
        run.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_worker_that_dies_is_told_and_takes_that_are_finished_stay(
    four: SimulatedRoot, tmp_path: Path
):
    def deadly(items: Iterable[Any], /, *, total: int, what: str, unit: str) -> Iterator[Any]:
        for item in items:
            yield item
            for worker in psutil.Process().children():
                if "spawn_main" in " ".join(worker.cmdline()):
                    worker.kill()

    words: dict[str, Any] = {"takes": 8, "seed": 9, **SMALL}
    with pytest.raises(SimulationFault, match="process that draws takes has died"):
        simulate_root(tmp_path / "root", workers=2, track=deadly, **words)
    again = simulate_root(tmp_path / "root", **words)
    assert 0 < again.takes_new < 8
    for name in four.take_names:
        assert digests(again.root / "takes" / name) == digests(four.root / "takes" / name)


def test_another_seed_makes_another_take(two: SimulatedRoot, tmp_path: Path):
    other = simulate_root(tmp_path / "other", takes=1, seed=10, **SMALL)
    name = other.take_names[0]
    assert digests(other.root / "takes" / name) != digests(two.root / "takes" / name)


def test_an_interrupted_simulation_is_continued_to_the_same_bytes(
    two: SimulatedRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    film, drawn = root_module.film, []

    def pulled_plug(*args: Any, **settings: Any) -> None:
        film(*args, **settings)
        drawn.append(args)
        if len(drawn) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(root_module, "film", pulled_plug)
    with pytest.raises(KeyboardInterrupt):
        simulate_root(tmp_path / "root", takes=2, seed=9, **SMALL)
    assert not (tmp_path / "root/takes.json").exists()
    monkeypatch.setattr(root_module, "film", film)
    assert simulate_root(tmp_path / "root", takes=2, seed=9, **SMALL).takes_new == 1
    assert digests(tmp_path / "root") == digests(two.root)


def test_a_finished_root_is_left_as_it_is(four: SimulatedRoot):
    before = digests(four.root)
    again = simulate_root(four.root, takes=4, seed=9, **SMALL)
    assert (again.takes_new, again.frames_new) == (0, 0)
    assert digests(four.root) == before


def test_another_seeds_folder_is_refused(four: SimulatedRoot):
    with pytest.raises(SimulationFault, match="other settings"):
        simulate_root(four.root, takes=4, seed=8, **SMALL)


def test_a_folder_of_something_else_is_refused_and_not_touched(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SimulationFault, match="not a simulation"):
        simulate_root(tmp_path, takes=1, seed=0, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_mark_is_a_fault_and_not_a_crash(tmp_path: Path):
    (tmp_path / "simulated.json").write_text("{")
    with pytest.raises(SimulationFault, match="damaged"):
        simulate_root(tmp_path, takes=1, seed=0, **SMALL)


@pytest.mark.parametrize("wrong", [{"takes": 0}, {"seconds": 0.05}, {"height": 27}, {"workers": 0}])
def test_numbers_that_make_no_video_are_refused_before_anything_is_written(
    tmp_path: Path, wrong: dict[str, Any]
):
    with pytest.raises(SimulationFault, match="No videos"):
        simulate_root(tmp_path / "root", **{"takes": 1, "seed": 0, **SMALL, **wrong})
    assert not (tmp_path / "root").exists()


def test_splits_go_round_and_change_nothing_but_the_split(four: SimulatedRoot, tmp_path: Path):
    wished = ("val", "test", "test")
    other = simulate_root(tmp_path / "root", takes=4, seed=9, splits=wished, **SMALL)
    listed = json.loads((other.root / "annotations/splits.json").read_text())
    by_uid = listed["take_uid_to_split"]
    takes = json.loads((other.root / "takes.json").read_text())
    given = {take["take_name"]: by_uid.get(take["take_uid"]) for take in takes}
    names = other.take_names
    assert [given[name] for name in names] == ["val", "test", "test", "val"]
    assert names == four.take_names
    assert digests(other.root / "takes") == digests(four.root / "takes")


def test_a_round_of_four_takes_shares_its_split():
    splits = splits_of_fours(["train", "test"])
    plans = [plan_take(0, index, 60, splits) for index in range(16)]
    assert [plan.split for plan in plans] == (["train"] * 4 + ["test"] * 4) * 2
    assert {plan.category for plan in plans if plan.split == "test"} == set(CATEGORIES)


@pytest.mark.parametrize("splits", [(), ("train", "tset")])
def test_splits_that_are_none_are_refused(tmp_path: Path, splits: tuple[str, ...]):
    with pytest.raises(SimulationFault, match="go through these splits"):
        simulate_root(tmp_path / "root", takes=1, seed=0, splits=splits, **SMALL)
    assert not (tmp_path / "root").exists()


def test_the_same_frames_never_make_other_bytes(tmp_path: Path):
    row, column = np.mgrid[:160, :160]
    noise = np.random.default_rng(0).integers(0, 60, (160, 160, 3))
    bands = [(row + 5 * step)[..., None] % 97 + column[..., None] // 2 for step in range(8)]
    pictures = [(noise + band).astype(np.uint8) for band in bands]
    for number in range(6):
        with VideoFile(tmp_path / f"{number}.mp4", (160, 160)) as video:
            for picture in pictures:
                video.add(picture)
    assert len(set(digests(tmp_path).values())) == 1


def test_a_sheet_shows_the_takes_two_abreast(four: SimulatedRoot, tmp_path: Path):
    draw_sheet(four.root, tmp_path / "sheet.png", takes=3, frame=2, height=72)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert sheet.shape == (2 * 72, 2 * (2 * 64 + 72), 3)
    assert sheet[:72].std() > 10
    assert not sheet[72:, 200:].any()
