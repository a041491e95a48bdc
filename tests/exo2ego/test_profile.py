"""Where a step's time goes: the parts add up, and a run in the folder is left as it is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from cli import app
from exo2ego.training.build import StageFault
from exo2ego.training.lineage import Source
from exo2ego.training.profile import PROFILE, WARM_UP, profile
from exo2ego.training.stages import STAGES
from stores.progress import Item
from stores.reading import Store

SMALL = ("precision=fp32", "batch.global_batch=4", "batch.micro_batch=2", "align.width=32")
BLOCKS = ("align.blocks=1", "align.heads=2", "align.head_width=16")


def files(folder: Path) -> dict[str, bytes]:
    every = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


def test_the_parts_of_a_step_add_up_and_all_of_them_take_time(
    store: Store, tiny_experiment: Callable, tmp_path: Path
):
    source = Source(store, None, None, None)
    found = profile("align", source, tmp_path, tiny_experiment("align"), steps=3)
    assert list(found.parts) == ["data", "forward", "backward", "optimiser"]
    assert all(seconds > 0 for seconds in found.parts.values())
    assert sum(found.parts.values()) == pytest.approx(found.step_s)
    assert found.clips_per_s * found.step_s == pytest.approx(4)
    assert found.headroom * found.clips_per_s == pytest.approx(found.stream_clips_per_s)
    assert (found.store_hash, found.steps, found.micro_batch) == (store.hash, 3, 2)
    assert set(files(tmp_path)) == {PROFILE}
    written = orjson.loads((tmp_path / PROFILE).read_bytes())
    assert written["backward_s"] == found.backward_s


def test_so_many_steps_are_timed_after_those_that_warm_up(
    store: Store, tiny_experiment: Callable, tmp_path: Path
):
    totals = []

    def track(items: list[Item], /, *, total: int, what: str, unit: str):
        totals.append((total, what, unit))
        yield from items

    source = Source(store, None, None, None)
    profile("align", source, tmp_path, tiny_experiment("align"), steps=2, track=track)
    assert totals == [(WARM_UP + 2, "profile", "steps")]


def test_a_run_in_the_folder_stays_as_it_is_and_says_what_it_was_given(
    framed_store: Store, runs: dict[str, Path], tiny_experiment: Callable, tmp_path: Path
):
    for run in (runs["multiexocon"], runs["poseinj"]):  # a child finds its parent beside it
        shutil.copytree(run, tmp_path / run.name)
    out, losses = tmp_path / "poseinj", STAGES["poseinj"].losses
    before, source = files(out), Source(framed_store, None, None, None)
    assert profile("poseinj", source, out, tiny_experiment("poseinj"), steps=1).stage == "poseinj"
    after = files(out)
    assert after.pop(PROFILE)
    assert after == before
    assert STAGES["poseinj"].losses is losses


def test_a_stage_that_lacks_its_parent_says_so(
    framed_store: Store, tiny_experiment: Callable, tmp_path: Path
):
    source = Source(framed_store, "tiny", None, None)
    with pytest.raises(StageFault, match="multiexocon"):
        profile("poseinj", source, tmp_path, tiny_experiment("poseinj"), steps=1)


def test_the_shell_prints_a_table_or_json(store_path: Path, tmp_path: Path):
    settings = [word for one in (*SMALL, *BLOCKS) for word in ("--set", one)]
    command = ["train", "--stage", "align", "--store", str(store_path), "--out", str(tmp_path)]
    words = [*command, *settings, "--device", "cpu", "--profile", "2"]
    table = CliRunner().invoke(app, words, catch_exceptions=False)
    assert table.exit_code == 0, table.output
    for part in ("data", "forward", "backward", "optimiser", "step", "the stream alone"):
        assert part in table.stdout
    said = orjson.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert said == orjson.loads((tmp_path / PROFILE).read_bytes())
