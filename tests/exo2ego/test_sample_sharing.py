"""Batches and processes: a clip's video is its own, whoever makes it and with whichever others."""

import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file

from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.evaluate import evaluate
from exo2ego.evaluation.manifest import SamplesFault, read_manifest
from exo2ego.evaluation.sample import open_samples, sample
from exo2ego.evaluation.shards import Shard
from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from exo2ego.model.flow import SamplerSettings
from exo2ego.training.checkpoint import CheckpointFault, find_checkpoint
from stores.reading import Store
from stores.zarr_store import open_store

HOW = {"vae_spec": "tiny", "sampler": SamplerSettings(steps=3), "clips": ClipChoice("test-all")}
ROOT = Path(__file__).parents[2]
LEVELS_APART = 1
"""Most that a batch may change of a frame's levels 0 to 255: products of other sizes."""


def videos(out: Path) -> dict[str, torch.Tensor]:
    return {
        path.name.removesuffix(".safetensors"): load_file(path)["frames"].int()
        for path in sorted(out.glob("*.safetensors"))
    }


@pytest.mark.parametrize("stage", ["multiexocon", "poseinj", "vawan", "align"])
def test_a_clip_is_the_same_alone_and_in_a_batch(
    stage: str, framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    sample(framed_store, runs[stage], tmp_path / "alone", **HOW)
    sample(framed_store, runs[stage], tmp_path / "three", batch=3, **HOW)
    alone, three = videos(tmp_path / "alone"), videos(tmp_path / "three")
    assert alone.keys() == three.keys() and len(alone) == 4
    assert max((alone[clip] - three[clip]).abs().max() for clip in alone) <= LEVELS_APART
    made = read_manifest(tmp_path / "three").clips
    assert sorted(clip.batch for clip in made.values()) == [1, 3, 3, 3]


def test_processes_at_once_make_one_folder_that_is_scored_as_one(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    run, out = runs["multiexocon"], tmp_path / "shared"
    words = ["sample", "--store", framed_store.path, "--checkpoint", run, "--out", out]
    words += ["--set", "test-all", "--vae", "tiny", "--steps", 3, "--device", "cpu"]
    command = [sys.executable, "-m", "cli", *map(str, words)]
    ranks = [{**os.environ, "RANK": str(rank), "WORLD_SIZE": "3"} for rank in range(3)]
    started = [subprocess.Popen(command, cwd=ROOT, env=rank) for rank in ranks]
    assert [process.wait() for process in started] == [0, 0, 0]
    sample(framed_store, run, tmp_path / "alone", **HOW)
    alone, shared = videos(tmp_path / "alone"), videos(out)
    assert all(torch.equal(alone[clip], shared[clip]) for clip in alone)
    assert len(read_manifest(out).clips) == len(alone) == 4
    assert sorted(path.name for path in out.glob("*.json")) == [
        *("manifest.2-of-3.json", "manifest.3-of-3.json", "manifest.json")
    ]
    assert evaluate(framed_store, out).overall == evaluate(framed_store, tmp_path / "alone").overall


def test_other_numbers_of_processes_go_on_with_what_is_there(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    run = runs["multiexocon"]
    assert sample(framed_store, run, tmp_path, shard=Shard(2, 2), **HOW).clips_new == 2
    report = sample(framed_store, run, tmp_path, **HOW)
    assert (report.clips, report.clips_new) == (4, 2)
    assert len(read_manifest(tmp_path).clips) == 4


def test_processes_with_other_settings_are_refused(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    sample(framed_store, runs["multiexocon"], tmp_path, shard=Shard(1, 2), **HOW)
    with pytest.raises(SamplesFault, match="seed"):
        sample(framed_store, runs["multiexocon"], tmp_path, shard=Shard(2, 2), seed=4, **HOW)


def test_a_plan_makes_a_clip_and_writes_nothing(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    samples = open_samples(framed_store, runs["multiexocon"], tmp_path / "out", batch=3, **HOW)
    plan = samples.plan()
    assert (plan.clips, plan.clips_done, plan.device) == (4, 0, "cpu")
    assert plan.gpu_hours == pytest.approx(4 * plan.seconds_a_clip / 3600)
    assert not (tmp_path / "out").exists()
    samples.fill(lambda items, **_: iter(items))
    after = samples.plan()
    assert (after.clips_done, after.gpu_hours) == (4, 0)


def test_an_align_run_of_another_store_is_refused_unless_allowed(
    store: Store, align_run: Path, make_store, clip_rows, tmp_path: Path
):
    other = open_store(make_store(clip_rows, seed=5), derive=CLIP_CAMERAS)
    with pytest.raises(CheckpointFault, match="allow-other-store"):
        sample(other, align_run, tmp_path, **HOW)
    assert not list(tmp_path.iterdir())
    assert sample(other, align_run, tmp_path, allow_other_store=True, **HOW).clips_new == 4
    state = orjson.loads((find_checkpoint(align_run) / "state.json").read_bytes())
    assert state["store_hash"] != read_manifest(tmp_path).settings.store_hash
