"""What is done to a run: told in five parts, and nothing that was good before is lost."""

import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from exo2ego.training.checkpoint import (
    OPTIMISER,
    STATE,
    WEIGHTS,
    CheckpointFault,
    checkpoints,
    file_digest,
    read_state,
)
from exo2ego.training.checkpoint_faults import newest_whole
from exo2ego.training.experiment import Experiment
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.first_frame_sources import frame_maker, frame_source
from exo2ego.training.first_frames import encode_first_frames
from exo2ego.training.interrupt import StopRequest
from exo2ego.training.losses import METRICS, read_metrics
from exo2ego.training.nan_guard import TrainingFault, read_skipped
from exo2ego.training.trainer import train
from exo2ego.training.watching import Watcher
from stores.errors import StoreFault, UserFault
from stores.index import ClipRow
from stores.reading import Store
from stores.zarr_store import commit, head_clips, open_store

MakeExperiment = Callable[..., Experiment]
MakeStore = Callable[..., Path]
FREE = 10**9
"""Bytes: more than any file here has."""
FEW = ("batch.global_batch=2", "batch.micro_batch=2", "precision=fp32")
LONGER = ("optimiser.steps=12", "batch.global_batch=2", "checkpoint_every=1")


class After(Watcher):
    """Does something once the checkpoint of a step is on disk."""

    def __init__(self, step: int, act: Callable[[], object]):
        self._step, self._act = step, act

    def saved(self, checkpoint: Path, step: int, stop: StopRequest) -> None:
        if step == self._step:
            self._act()


def has_five_parts(fault: UserFault) -> bool:
    parts = (fault.what, fault.where, fault.expected, fault.got, fault.fix)
    return all(str(part).strip() for part in parts)


def exact(run: Path) -> list[tuple[object, ...]]:
    return [(line.step, line.loss, line.lr, line.grad_norm) for line in read_metrics(run)]


def final_weights(run: Path) -> str:
    return file_digest(checkpoints(run)[-1] / WEIGHTS)


def is_as(run: Path, whole: Path) -> bool:
    """Whether two runs have the same losses and the same weights in the end."""
    return exact(run) == exact(whole) and final_weights(run) == final_weights(whole)


# Disks


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Sets how long a file of this process may grow, as a full disk would; no limit afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda length: resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 5000, 150_000])
def test_a_checkpoint_without_room_is_told_and_the_last_good_one_goes_on(
    room: int,
    file_limit: Callable[[int], None],
    store: Store,
    align_run: Path,
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
):
    arguments = ("align", store, tmp_path, tiny_experiment("align"))
    with pytest.raises(StoreFault) as told:
        train(*arguments, watchers=[After(2, lambda: file_limit(room))])
    file_limit(FREE)
    assert has_five_parts(told.value)
    (good,) = checkpoints(tmp_path)
    assert read_state(good).step == 2
    assert [path.name for path in good.parent.iterdir()] == [good.name], "half a checkpoint is left"
    train(*arguments, resume=True)
    assert is_as(tmp_path, align_run)


def test_the_fault_names_the_checkpoint_that_is_kept(
    file_limit: Callable[[int], None],
    store: Store,
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
):
    experiment = tiny_experiment("align")
    with pytest.raises(StoreFault, match="could not be written") as told:
        cut = After(2, lambda: file_limit(150_000))
        train("align", store, tmp_path, experiment, watchers=[cut])
    file_limit(FREE)  # pytest's own output may be a file, and longer than that
    assert "step-00000002 is whole, and --resume" in told.value.fix
    assert "File too large" in str(told.value.got)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of this size. Skips the test where nobody may mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount, as root has it")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_is_told_and_with_room_the_run_goes_on(
    store: Store, align_run: Path, tiny_experiment: MakeExperiment, tmp_path: Path
):
    one = sum(path.stat().st_size for path in checkpoints(align_run)[0].iterdir())
    experiment = tiny_experiment("align", "checkpoint_every=1", "keep_checkpoints=4")
    with small_disk(tmp_path / "disk", (5 * one // 2) // 1000) as disk:
        with pytest.raises(StoreFault, match="could not be written") as told:
            train("align", store, disk / "run", experiment)
        assert "No space left" in str(told.value.got)
        assert [folder.name for folder in checkpoints(disk / "run")] == [
            "step-00000001",
            "step-00000002",
        ]
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        train("align", store, disk / "run", experiment, resume=True)
        assert is_as(disk / "run", align_run)


# Checkpoints that are damaged


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)


DAMAGES = [
    (name, damage) for name in (WEIGHTS, OPTIMISER) for damage in (cut_short, flip, Path.unlink)
]


@pytest.mark.parametrize(("name", "damage"), [*DAMAGES, (STATE, cut_short), (STATE, Path.unlink)])
def test_a_damaged_checkpoint_is_told_with_the_one_to_go_on_from(
    name: str,
    damage: Callable[[Path], None],
    store: Store,
    align_run: Path,
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
):
    run = Path(shutil.copytree(align_run, tmp_path / "run"))
    old, new = checkpoints(run)
    damage(new / name)
    with pytest.raises(CheckpointFault, match="newest checkpoint of this run is damaged") as told:
        train("align", store, run, tiny_experiment("align"), resume=True)
    assert has_five_parts(told.value)
    assert name in str(told.value.where)
    assert f"Move {new} away" in told.value.fix
    assert old.name in told.value.fix
    assert exact(run) == exact(align_run), "nothing is lost before anybody has decided"
    new.rename(tmp_path / "damaged")
    train("align", store, run, tiny_experiment("align"), resume=True)
    assert is_as(run, align_run)


def test_a_run_without_one_whole_checkpoint_is_to_start_again(align_run: Path, tmp_path: Path):
    run = Path(shutil.copytree(align_run, tmp_path / "run"))
    for folder in checkpoints(run):
        flip(folder / WEIGHTS)
    with pytest.raises(CheckpointFault, match="No checkpoint of the run is whole"):
        newest_whole(run)


# Stores that change under a running job


def damage_shards(store: Path, array: str) -> None:
    for shard in (store / "arrays" / array / "c").rglob("*"):
        if shard.is_file():
            data = shard.read_bytes()
            shard.write_bytes(bytes(byte ^ 255 for byte in data))


@pytest.mark.parametrize("array", ["exo_latents", "ego_latents", "align_rays"])
def test_a_store_that_is_damaged_under_a_run_is_told_with_its_clips_and_mended_it_goes_on(
    array: str, store_path: Path, tiny_experiment: MakeExperiment, tmp_path: Path
):
    path = Path(shutil.copytree(store_path, tmp_path / "a.store"))
    opened = open_store(path, derive=CLIP_CAMERAS)
    experiment, run = tiny_experiment("align", *LONGER), tmp_path / "run"
    with pytest.raises(StoreFault) as told:
        damage = After(2, lambda: damage_shards(path, array))
        train("align", opened, run, experiment, watchers=[damage])
    assert has_five_parts(told.value)
    assert any(clip_id in str(told.value) for clip_id in opened.select(split="train"))
    assert len(read_metrics(run)) < 12
    damage_shards(path, array)  # the same again mends it
    train("align", open_store(path, derive=CLIP_CAMERAS), run, experiment, resume=True)
    train("align", open_store(store_path, derive=CLIP_CAMERAS), tmp_path / "whole", experiment)
    assert is_as(run, tmp_path / "whole")


def test_a_store_that_goes_on_to_a_new_version_is_nothing_to_a_run(
    store_path: Path, tiny_experiment: MakeExperiment, tmp_path: Path
):
    path = Path(shutil.copytree(store_path, tmp_path / "a.store"))
    opened, before = open_store(path), open_store(path).hash
    (clip, *_) = head_clips(path)
    renamed = type(clip)(**{**clip.__dict__, "category": "Juggling"})
    change = After(2, lambda: commit(path, [renamed], command="test", index_digest="0" * 64))
    experiment = tiny_experiment("align", *LONGER)
    train("align", opened, tmp_path / "run", experiment, watchers=[change])
    train("align", open_store(store_path), tmp_path / "whole", experiment)
    assert open_store(path).hash != before
    assert read_state(checkpoints(tmp_path / "run")[-1]).store_hash == before
    assert is_as(tmp_path / "run", tmp_path / "whole")


# Stores that a stage cannot train on


def test_rays_that_nobody_makes_are_refused_before_the_first_step(
    store_path: Path, tiny_experiment: MakeExperiment, tmp_path: Path
):
    pixelnerf = "align={name='pixelnerf'}"
    with pytest.raises(StoreFault) as told:
        train(
            "align", open_store(store_path), tmp_path, load_experiment("align", [pixelnerf, *FEW])
        )
    assert has_five_parts(told.value)
    assert not (tmp_path / METRICS).exists()


def test_train_clips_without_an_ego_video_are_named(
    make_store: MakeStore,
    clip_rows: list[ClipRow],
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
):
    rows = [replace(row, ego=replace(row.ego, video="")) for row in clip_rows]
    path = make_store(rows, without=("ego_latents", "ego_frames"))
    with pytest.raises(StoreFault, match=r"cmu_bike01_1-f000000.*no ego video"):
        train("align", open_store(path), tmp_path, tiny_experiment("align"))


def test_fewer_clips_than_a_batch_are_refused_with_the_batch_that_fits(
    store: Store, tiny_experiment: MakeExperiment, tmp_path: Path
):
    with pytest.raises(TrainingFault, match="fewer clips than a batch") as told:
        train("align", store, tmp_path, tiny_experiment("align", "batch.global_batch=6"))
    assert "batch.global_batch=5" in told.value.fix
    assert not (tmp_path / METRICS).exists()


@pytest.mark.parametrize("stage", ["align", "multiexocon", "vawan"])
def test_a_view_that_some_clips_lack_is_trained_without(
    stage: str,
    make_store: MakeStore,
    clip_rows: list[ClipRow],
    tiny_experiment: MakeExperiment,
    tmp_path: Path,
):
    few = [
        replace(row, exos=(*row.exos[:2], None)) if n % 2 else row
        for n, row in enumerate(clip_rows)
    ]
    opened = open_store(make_store(few), derive=CLIP_CAMERAS)
    truth = [] if stage == "align" else ["condition.source.name=ground-truth"]
    if truth:
        maker = frame_maker(frame_source("ground-truth", 0), None)
        encode_first_frames(opened, maker, vae_spec="tiny")
    wan = "tiny" if truth else None
    report = train(stage, opened, tmp_path, tiny_experiment(stage, *truth), wan_spec=wan)
    assert (report.finished, report.steps_skipped, read_skipped(tmp_path)) == (True, 0, [])
