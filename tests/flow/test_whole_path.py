"""From a simulated root to scores by the commands of the shell, and what they say if wrong."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pytest
from typer.testing import CliRunner, Result

from cli import DEMO_SETTINGS, app
from exo2ego.training.checkpoint import find_checkpoint, read_state
from exo2ego.training.experiment_file import load_experiment, settings_of
from exo2ego.training.experiment_keys import leaves
from pipeline.simulate.root import simulate_root

FRAMES, SIZE = 5, 32
SMALL = {
    "align": ["align.width=16", "align.blocks=1", "align.heads=1", "align.head_width=16"],
    "multiexocon": [],
    "poseinj": [],
}


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def report(*words: object) -> dict[str, Any]:
    """What a command prints with --json: one object, and nothing else on stdout."""
    done = call(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def fault(*words: object) -> str:
    """The message of a command that must refuse: five parts, exit code 2, no traceback."""
    done = call(*words)
    assert done.exit_code == 2, (done.exit_code, done.stdout, done.stderr)
    assert done.stdout == ""
    for part in ("where:", "expected:", "got:", "fix:"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@dataclass(frozen=True)
class World:
    """Where everything lies."""

    at: Path

    @property
    def root(self) -> Path:
        return self.at / "root"

    @property
    def clips(self) -> Path:
        return self.at / "clips.parquet"

    @property
    def store(self) -> Path:
        return self.at / "latents.store"

    def run(self, stage: str) -> Path:
        return self.at / "runs" / stage

    def train(self, stage: str, *words: object) -> dict[str, Any]:
        settings = [word for setting in SMALL[stage] for word in ("--set", setting)]
        return report(
            *("train", "--stage", stage, "--store", self.store, "--out", self.run(stage)),
            *("--experiment", f"demo-{stage}", "--set", "optimiser.steps=2"),
            *("--set", "optimiser.warmup_steps=1", "--device", "cpu", *settings, *words),
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of three takes, one a split, walked through up to the samples."""
    world = World(tmp_path_factory.mktemp("world"))
    simulate_root(world.root, takes=3, seconds=1.0, seed=3, height=56, samples=1)
    report(
        *("ingest", world.root, "--out", world.clips, "--frames", FRAMES, "--size", SIZE),
        *("--stride", 3, "--window-step", 12),
    )
    report(
        *("encode-latents", world.clips, "--store", world.store, "--vae", "tiny"),
        *("--device", "cpu"),
    )
    world.train("align")
    report(
        *("encode-first-frames", "--store", world.store, "--align", world.run("align")),
        *("--vae", "tiny", "--device", "cpu"),
    )
    world.train("multiexocon", "--wan", "tiny")
    world.train("poseinj", "--from", world.run("multiexocon"))
    report(*sample_words(world, "poseinj", world.at / "samples"))
    return world


def sample_words(world: World, stage: str, out: Path) -> list[object]:
    return [
        *("sample", "--store", world.store, "--checkpoint", world.run(stage), "--out", out),
        *("--vae", "tiny", "--steps", 2, "--device", "cpu"),
    ]


def test_store_info_names_hash_clips_and_recipe(world: World):
    about = report("store", "info", world.store)
    assert len(about["hash"]) == 64
    assert about["clips"] > 3
    assert about["recipe"]["clips"]["frames"] == FRAMES
    assert report("store", "info", f"{world.store}@{about['hash'][:6]}")["hash"] == about["hash"]


def test_every_test_take_gets_a_video_of_all_its_frames(world: World):
    (video,) = (world.at / "samples").glob("*.ego.mp4")
    with av.open(str(video)) as opened:
        frames = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
    assert len(frames) == FRAMES
    assert frames[0].shape == (SIZE, SIZE, 3)


def test_scores_are_written_and_lpips_without_weights_is_not_measured(world: World):
    scores = report("evaluate", "--store", world.store, "--samples", world.at / "samples")
    assert json.loads((world.at / "samples" / "scores.json").read_text()) == scores
    assert 0 < scores["overall"]["psnr"] < 60
    assert scores["overall"]["lpips"] == "not measured"
    assert scores["missing"] == []
    table = call("evaluate", "--store", world.store, "--samples", world.at / "samples").stdout
    assert "not measured" in table
    assert all(column in table for column in ("PSNR", "view bias", "on time", "lateness", "log2"))


def test_the_path_again_does_nothing_anew(world: World):
    before = report("store", "info", world.store)["hash"]
    again = report("encode-latents", world.clips, "--store", world.store, "--vae", "tiny")
    assert (again["hash"], again["clips_new"]) == (before, 0)
    assert world.train("align", "--resume")["steps"] == 2
    assert report(*sample_words(world, "poseinj", world.at / "samples"))["clips_new"] == 0


def test_a_damaged_store_is_told_by_clip_and_exit_code(world: World, tmp_path: Path):
    import shutil

    copy = tmp_path / "copy.store"
    shutil.copytree(world.store, copy)
    assert call("store", "verify", copy).exit_code == 0
    shard = max((copy / "arrays" / "ego_latents" / "c").rglob("*"), key=lambda p: p.is_file())
    damaged = bytearray(shard.read_bytes())
    damaged[7] ^= 1
    shard.write_bytes(damaged)
    done = call("store", "verify", copy, "--json")
    assert done.exit_code == 1
    (row,) = json.loads(done.stdout)["damaged"]
    assert row["array"] == "ego_latents"


def test_a_folder_that_is_not_the_dataset_is_refused(tmp_path: Path):
    (tmp_path / "holiday.mp4").touch()
    assert "takes.json" in fault("ingest", tmp_path, "--out", tmp_path / "clips.parquet")
    assert not (tmp_path / "clips.parquet").exists()


def test_a_missing_and_an_unreadable_video_are_rejects_of_a_finished_run(tmp_path: Path):
    root = tmp_path / "root"
    simulate_root(root, takes=3, seconds=0.5, seed=3, height=56, samples=1, faults=False)
    first, second, _ = sorted(path for path in (root / "takes").iterdir())
    next(first.rglob("cam01.mp4"), next(first.rglob("gp01.mp4"), None)).unlink()
    next(second.rglob("*_214-1.mp4")).write_bytes(b"not a video")
    done = report(
        *("ingest", root, "--out", tmp_path / "clips.parquet", "--frames", FRAMES),
        *("--stride", 2, "--size", SIZE),
    )
    reasons = {row["take_name"]: row["reason"] for row in done["rejects"]}
    assert reasons[first.name] == "missing_video"
    assert reasons[second.name] == "unreadable_video"
    assert done["takes"] == 1


def test_a_store_of_another_recipe_is_refused_and_kept(world: World, tmp_path: Path):
    other = tmp_path / "other.parquet"
    report("ingest", world.root, "--out", other, "--frames", 9, "--stride", 2, "--size", SIZE)
    before = report("store", "info", world.store)["hash"]
    assert "frames" in fault("encode-latents", other, "--store", world.store, "--vae", "tiny")
    assert report("store", "info", world.store)["hash"] == before


def test_a_checkpoint_of_another_stage_is_refused(world: World, tmp_path: Path):
    words = ("train", "--stage", "poseinj", "--store", world.store, "--out", tmp_path / "run")
    assert "multiexocon" in fault(*words, "--wan", "tiny", "--from", world.run("align"))
    assert "multiexocon" in fault(*words, "--wan", "tiny")


def test_a_checkpoint_of_another_store_is_refused(world: World, tmp_path: Path):
    part = tmp_path / "part.store"
    words = ("encode-latents", world.clips, "--store", part, "--vae", "tiny", "--device", "cpu")
    report(*words, "--split", "test")
    done = fault(
        *("encode-first-frames", "--store", part, "--align", world.run("align")),
        *("--vae", "tiny"),
    )
    assert "store" in done


def test_a_dry_run_of_sample_tells_hours_and_writes_nothing(world: World, tmp_path: Path):
    words = sample_words(world, "poseinj", tmp_path / "out")
    plan = report(*words, "--dry-run", "--views", "0,1", "--shard", "1/1")
    assert (plan["clips"], plan["clips_done"]) == (1, 0) and plan["gpu_hours"] > 0
    assert not (tmp_path / "out").exists()


def test_shares_views_and_cameras_that_are_not_there_are_faults(world: World, tmp_path: Path):
    words = sample_words(world, "poseinj", tmp_path / "out")
    assert "torchrun" in fault(*words, "--shard", "3/2")
    assert "0 to 3" in fault(*words, "--views", "4")
    assert "evaluation.md" in fault(*words, "--camera", tmp_path / "none.json")


def test_scores_are_shown_for_people_and_planned_without_a_file(world: World, tmp_path: Path):
    words = ("evaluate", "--store", world.store, "--samples", world.at / "samples")
    plan = report(*words, "--dry-run", "--out", tmp_path / "s.json", "--device", "cpu")
    assert (plan["clips"], plan["missing"]) == (1, []) and not list(tmp_path.iterdir())
    shown = call(*words, "--out", tmp_path / "s.json", "--set", "test-1")
    assert shown.exit_code == 0 and "overall" in shown.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.json", "s.parquet"]


def test_baselines_are_made_and_scored_by_the_shell(world: World, tmp_path: Path):
    words = ("baseline", "--store", world.store, "--vae", "tiny", "--device", "cpu")
    for method in ("mean-frame", "exo-view", "frozen-first"):
        out = tmp_path / method
        assert report(*words, "--method", method, "--out", out)["clips_new"] == 1
        scores = report("evaluate", "--store", world.store, "--samples", out)
        assert scores["provenance"]["samples"]["stage"] == method
    assert "exo2ego baseline" in fault(
        *words, "--method", "mean-frame", "--view", "1", "--out", tmp_path / "x"
    )


def test_a_misspelt_setting_names_the_known_ones(world: World, tmp_path: Path):
    words = ("train", "--stage", "align", "--store", world.store, "--out", tmp_path / "run")
    assert "optimiser" in fault(*words, "--set", "optimizer.lr=1e-3")


def test_the_demo_keeps_its_hands_off_other_folders(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "does not overwrite" in fault("demo", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("stage", ["align", "multiexocon", "poseinj"])
def test_the_demo_goes_on_from_what_the_package_ships(stage: str):
    """Same tensors, same shapes: nothing but lengths and rates differs from what was trained."""
    shipped = find_checkpoint(Path("mini") / stage)
    ours = load_experiment(f"mini-{stage}", DEMO_SETTINGS).model_dump(mode="json")
    told = {word.split("=")[0] for word in DEMO_SETTINGS}
    now, then = dict(leaves(ours)), settings_of(read_state(shipped).experiment, where=shipped)
    assert {key for key in now if now[key] != then[key]} <= told


def test_a_published_list_gives_the_same_list_again(world: World, tmp_path: Path):
    own = tmp_path / "own.parquet"
    done = report("ingest", world.root, "--clips", world.clips, "--out", own, "--no-page")
    assert done["published"]["is_same"]
    assert done["digest"] == report("clips", "show", world.clips)["digest"]
    assert call("clips", "diff", world.clips, own).exit_code == 0


def test_lists_of_other_strides_differ_and_say_in_what(world: World, tmp_path: Path):
    other = tmp_path / "other.parquet"
    words = ("--frames", FRAMES, "--fps", 10, "--window-step", 9, "--size", SIZE)
    report("ingest", world.root, "--out", other, "--no-page", *words)
    done = call("clips", "diff", world.clips, other, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["recipe"] == {"window_step": [12, 9]}


def test_a_table_of_the_clips_has_a_line_a_clip(world: World, tmp_path: Path):
    table = tmp_path / "clips.csv"
    count = report("clips", "export", world.clips, "--csv", table)["clips"]
    assert len(table.read_text().splitlines()) == 1 + count


def test_ingest_leaves_a_page_with_a_sheet_a_take(world: World):
    page = (world.at / "ingest.html").read_text()
    sheets = list((world.at / "ingest_sheets").glob("*.jpg"))
    assert len(sheets) == 3
    assert all(sheet.name in page for sheet in sheets)


def test_what_to_download_is_known_without_the_data(tmp_path: Path):
    script = call("ingest", tmp_path, "--download-commands").stdout
    assert "egoexo" in script
    assert "transformer_2" in script


def test_takes_of_fewer_views_are_used_if_asked(world: World, tmp_path: Path):
    few = tmp_path / "few.parquet"
    words = ("--frames", FRAMES, "--stride", 3, "--size", SIZE, "--no-page", "--out", few)
    five = report("ingest", world.root, *words, "--views", "cam01,cam03,cam05,cam04,cam02")
    assert five["takes"] < 3
    most = report(
        *("ingest", world.root, *words, "--views", "cam01,cam03,cam05,cam04,cam02"),
        *("--min-views", 3),
    )
    assert most["takes"] == 3


def test_a_tag_names_a_version_and_the_log_shows_it(world: World, tmp_path: Path):
    import shutil

    copy = tmp_path / "copy.store"
    shutil.copytree(world.store, copy)
    tagged = report("store", "tag", copy, "paper")["hash"]
    (version,) = report("store", "log", copy)["versions"]
    assert (version["hash"], version["tags"]) == (tagged, ["paper"])
    assert "paper" in call("store", "log", copy).stdout
    assert report("store", "info", f"{copy}@paper")["hash"] == tagged
    assert call("store", "diff", f"{copy}@paper", world.store).exit_code == 0


def test_gc_asks_and_takes_only_what_no_version_names(world: World, tmp_path: Path):
    import shutil

    copy = tmp_path / "copy.store"
    shutil.copytree(world.store, copy)
    stray = copy / "arrays" / "ego_latents" / "c" / "99"
    shutil.copytree(copy / "arrays" / "ego_latents" / "c" / "0", stray)
    kept = CliRunner().invoke(app, ["store", "gc", str(copy)], input="n\n")
    assert kept.exit_code == 0
    assert stray.exists()
    report("store", "gc", copy, "--yes")
    assert not list(stray.rglob("*")) or not stray.exists()
    assert call("store", "verify", copy).exit_code == 0


def test_a_fork_has_the_changed_recipe_and_no_clips(world: World, tmp_path: Path):
    made = report("store", "fork", world.store, tmp_path / "new.store", "--set", "clips.stride=2")
    assert made["recipe"]["clips.stride"] == [3, 2]
    assert "no clips" in fault("store", "info", tmp_path / "new.store")


def test_tars_have_the_hash_of_the_store_and_are_scored_like_it(world: World, tmp_path: Path):
    tars, back = tmp_path / "tars", tmp_path / "back.store"
    exported = report("store", "export", world.store, "--out", tars)
    assert report("store", "import", tars, "--store", back)["hash"] == exported["hash"]
    assert report("store", "info", tars)["hash"] == report("store", "info", world.store)["hash"]
    words = ("evaluate", "--samples", world.at / "samples")
    assert report(*words, "--store", tars) == report(*words, "--store", world.store)
