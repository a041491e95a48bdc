"""Reproducing a table: the right runs, once each and in order; resumable; the table at the end."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli import app
from exo2ego.evaluation.reproduce.mini import mini_results, mini_ways, plan_mini
from exo2ego.evaluation.reproduce.mini_tables import MINI_TABLES, MiniTable
from exo2ego.evaluation.reproduce.plan import plan_stores, plan_table
from exo2ego.evaluation.reproduce.settings import PlannedStore, ReproduceFault, Ways
from exo2ego.evaluation.reproduce.step import KINDS, STOPPED, Step, run_steps
from exo2ego.evaluation.reproduce.tables import plan_reproduction
from exo2ego.evaluation.tables.published import published_table
from exo2ego.evaluation.tables.systems import PARENTS
from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from exo2ego.training.experiment_file import load_experiment
from exo2ego.training.experiment_keys import values_of
from stores.index import ClipRow
from stores.zarr_store import open_store

WAYS = Ways("tiny", "tiny", device="cpu")
SHORT = ("optimiser.steps=1", "optimiser.warmup_steps=0", "precision=fp32")
SHORT += ("batch.global_batch=2", "batch.micro_batch=2")


@pytest.fixture(scope="module")
def bike_rows(clip_rows: list[ClipRow]) -> list[ClipRow]:
    names = {"Bike": "bike", "Covid Test": "covid"}
    return [replace(row, category=names[row.category]) for row in clip_rows]


@pytest.fixture(scope="module")
def paper_store(make_store: Callable[..., Path], bike_rows: list[ClipRow]) -> Path:
    """The small store with the categories of the paper's tables."""
    return make_store(bike_rows)


@pytest.fixture(scope="module")
def mini_store(paper_store: Path, tmp_path_factory: pytest.TempPathFactory) -> PlannedStore:
    stores = {str(paper_store): open_store(paper_store, derive=CLIP_CAMERAS)}
    return plan_stores(stores, tmp_path_factory.mktemp("mini"), mini_ways(WAYS))[0]


def planned(number: int, out: Path, *paths: Path) -> list[Step]:
    stores = {str(path): open_store(path, derive=CLIP_CAMERAS) for path in paths}
    return plan_table(published_table(number), plan_stores(stores, out, WAYS))


def names(steps: Sequence[Step]) -> list[tuple[str, str]]:
    return [(step.kind, step.name) for step in steps]


def test_table_4_shares_align_and_trains_each_system_once(paper_store: Path, tmp_path: Path):
    systems = ["multiexocon-gt", "poseinj-gt", "multiexocon", "poseinj"]
    assert names(planned(4, tmp_path, paper_store)) == [
        ("align", "align"),
        ("first frames", "ground-truth"),
        ("first frames", "align"),
        ("train", "multiexocon-gt"),
        ("train", "multiexocon"),
        ("poseinj", "poseinj-gt"),
        ("poseinj", "poseinj"),
        *(("sample", name) for name in systems),
        *(("evaluate", name) for name in systems),
    ]


def test_table_3_trains_vawan_on_every_align(paper_store: Path, tmp_path: Path):
    found = names(planned(3, tmp_path, paper_store))
    assert [name for kind, name in found if kind == "train"] == [
        "vawan-on-align-cross-attention-nopose",
        "vawan-on-align-cross-attention",
        "vawan-on-align-pixelnerf",
        "vawan-on-align-s",
        "vawan",
    ]
    assert sum(kind == "align" for kind, _ in found) == 5


def test_the_miniature_world_shares_align_and_trains_every_generator_for_each_seed(
    mini_store: PlannedStore,
):
    one, table = mini_store, MINI_TABLES["mini"]
    steps = plan_mini(one, table, seeds=2)
    kinds = [step.kind for step in steps]
    assert kinds == sorted(kinds, key=KINDS.index)
    assert (kinds.count("align"), kinds.count("train"), kinds.count("poseinj")) == (1, 10, 6)
    assert [step.name for step in steps if step.kind == "first frames"] == [
        *("exo", "mini-align", "none", "ground-truth"),
    ]
    assert kinds.count("baseline") == 2 and kinds.count("sample") == 10
    assert kinds.count("evaluate") == 12
    told = [" ".join(step.words()) for step in steps if step.kind == "poseinj"]
    assert sum("seed=1" in words and "runs/seed-1/mini-multiexocon" in words for words in told) == 3
    (align,) = (step.words() for step in steps if step.kind == "align")
    assert not any("seed" in word for word in align)
    folders = [folder for seeds in mini_results(one, table, 2).values() for folder in seeds]
    scored = [" ".join(step.words()) for step in steps if step.kind == "evaluate"]
    assert len(set(folders)) == 12
    assert all(any(str(folder) in words for words in scored) for folder in folders)


def test_an_align_by_itself_is_trained_scored_and_shown_once_however_many_seeds(
    mini_store: PlannedStore,
):
    table = MINI_TABLES["mini-architectures"]
    steps = plan_mini(mini_store, table, seeds=3)
    assert [step.kind for step in steps] == 5 * ["align"] + 5 * ["sample"] + 5 * ["evaluate"]
    sample = next(step.words() for step in steps if step.kind == "sample")
    assert "--steps" not in sample and "--guidance" not in sample  # it solves nothing
    results = mini_results(mini_store, table, seeds=3)
    assert list(results) == list(table.systems)
    assert {len(folders) for folders in results.values()} == {1}


def test_every_align_that_is_shown_by_itself_gives_a_vawan_its_first_frames(
    mini_store: PlannedStore,
):
    alone, of_vawan = (MINI_TABLES[f"mini-architectures{end}"] for end in ("", "-vawan"))
    shown = {row: system.experiment for row, system in alone.systems.items()}
    assert {row: system.align for row, system in of_vawan.systems.items()} == shown
    steps = plan_mini(mini_store, of_vawan, seeds=1)
    assert sorted(name for kind, name in names(steps) if kind == "first frames") == sorted(
        shown.values()
    )
    assert [name for kind, name in names(steps) if kind == "train"] == [
        f"mini-vawan-on-{align}" for align in shown.values()
    ]


@pytest.mark.parametrize("name", MINI_TABLES)
def test_rows_of_a_table_of_the_miniature_world_are_trained_for_as_many_steps(name: str):
    table: MiniTable = MINI_TABLES[name]
    steps = {
        row: load_experiment(system.experiment).optimiser.steps
        + (load_experiment(parent).optimiser.steps if parent else 0)
        for row, system in table.systems.items()
        for parent in [PARENTS.get(system.experiment)]
    }
    assert len(set(steps.values())) == 1, steps
    assert table.compared in table.systems


def test_experiments_of_the_miniature_world_stand_for_those_of_the_papers_tables():
    """Row by row they differ from one another in the keys in which the paper's rows do."""
    pairs = {
        "mini-views": [("vawan-v1", "vawan")],
        "mini-architectures": [
            *(("align-cross-attention-nopose", "align"), ("align-cross-attention", "align")),
            *(("align-pixelnerf", "align"), ("align-s", "align")),
        ],
        "mini-poses": [
            ("vawan-gt-time-and-pose-v1", "vawan-gt-ac3d-2048"),
            ("vawan-gt-ac3d-512-v1", "vawan-gt-ac3d-2048"),
            ("vawan-gt-ac3d-512-v4", "vawan-gt-ac3d-2048"),
            ("vawan-gt-ac3d-512-shared", "vawan-gt-ac3d-2048"),
        ],
    }
    for name, of_paper in pairs.items():
        table = MINI_TABLES[name]
        rows = [system for row, system in table.systems.items() if row != table.compared]
        for system, (row, compared) in zip(rows, of_paper, strict=True):
            own = differing(system.experiment, table.systems[table.compared].experiment)
            assert own == differing(row, compared), system


def differing(a: str, b: str) -> set[str]:
    """Keys of two experiments that differ, without those that size a model or say how it trains."""
    one, other = (values_of(load_experiment(name)) for name in (a, b))
    keys = {key for key in one | other if one.get(key) != other.get(key)}
    sizes = ("batch.", ".width", ".blocks", ".heads", ".latent_width")
    return {key for key in keys if not any(part in key for part in sizes)}


def test_a_table_that_is_none_and_a_second_store_are_refused(paper_store: Path, tmp_path: Path):
    store = open_store(paper_store, derive=CLIP_CAMERAS)
    with pytest.raises(ReproduceFault, match=r"table1, .*mini-poses"):
        plan_reproduction("table7", {"a": store}, tmp_path, WAYS, seeds=1)
    with pytest.raises(ReproduceFault, match="is of one store"):
        plan_reproduction("mini", {"a": store, "b": store}, tmp_path, WAYS, seeds=1)


def test_tables_without_the_category_of_a_row_leave_its_systems_out(
    make_store: Callable[..., Path], bike_rows: list[ClipRow], tmp_path: Path
):
    covid = make_store([row for row in bike_rows if row.category == "covid"])
    assert "poseinj-gt" not in {name for _, name in names(planned(4, tmp_path, covid))}
    with pytest.raises(ReproduceFault, match="does not serve for Table 2"):
        planned(2, tmp_path, covid)


def test_stores_that_share_a_name_or_a_category_are_refused(
    make_store: Callable[..., Path], bike_rows: list[ClipRow], paper_store: Path, tmp_path: Path
):
    again = make_store(bike_rows)
    with pytest.raises(ReproduceFault, match="share a folder"):
        planned(4, tmp_path, paper_store, again)
    other = again.rename(again.with_name("other.store"))
    with pytest.raises(ReproduceFault, match="a category in one store alone"):
        planned(4, tmp_path, paper_store, other)


def test_settings_of_a_stage_are_told_to_that_stage_alone():
    ways = replace(WAYS, settings=("seed=1", "align:align.width=8", "poseinj:seed=2"))
    assert ways.overrides("align") == ["seed=1", "align.width=8"]
    assert ways.overrides("poseinj") == ["seed=1", "seed=2"]


def test_hours_are_those_of_describe(paper_store: Path, tmp_path: Path):
    from exo2ego.training.describe import describe

    steps = {(step.kind, step.name): step for step in planned(2, tmp_path, paper_store)}
    experiment, shape = load_experiment("multiexocon"), open_store(paper_store).recipe.clips.shape
    seconds = describe(experiment, clip=shape, wan_spec="tiny").seconds_a_step
    assert steps["train", "multiexocon"].hours_left == pytest.approx(100_000 * seconds / 3600)
    assert steps["sample", "multiexocon"].hours_left is None


def counting_step(done: list[str], name: str, code: int = 0, works: bool = True) -> Step:
    count: Callable[[], int] = lambda: int(name in done)  # noqa: E731
    return Step("train", name, lambda: [name, str(code), str(works)], 1, "steps", count)


@pytest.mark.parametrize(
    ("code", "works", "expected"), [(0, True, 0), (2, False, 2), (0, False, STOPPED)]
)
def test_the_first_step_that_fails_or_is_stopped_ends_the_run(
    code: int, works: bool, expected: int
):
    done, ran = ["first"], []

    def execute(step: Step) -> int:
        name, told, well = step.words()
        ran.append(name)
        if well == "True":
            done.append(name)
        return int(told)

    last = counting_step(done, "third")
    steps = [counting_step(done, "first"), counting_step(done, "second", code, works), last]
    assert run_steps(steps, execute) == expected
    assert ran == (["second", "third"] if expected == 0 else ["second"])


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_table_2_is_made_printed_and_not_made_again(paper_store: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = ["reproduce", "table2", "--store", paper_store, "--out", out, "--wan", "tiny"]
    words += ["--vae", "tiny", "--device", "cpu", "--steps", 1]
    words += [word for setting in SHORT for word in ("--set", setting)]
    listed = call(*words, "--dry-run")
    assert listed.exit_code == 0, listed.output
    assert "--first-frames DIGEST" in listed.stdout
    assert not out.exists()
    made = call(*words)
    assert made.exit_code == 0, made.output
    table = (out / "table2.md").read_text()
    assert made.stdout.endswith(table)
    assert "6 of 9 cells measured, 0 empty, 3 not measured" in table
    for name in ("multiexocon", "multiexocon-no-align", "multiexocon-gt"):
        assert f"samples/{name}: {name}, test-1, takes: bike 2, covid 1" in table
    assert "sampler.steps = 1, not 40" in table
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = call(*words)
    assert "exo2ego train" not in again.stdout.split("Training:")[1]
    now = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert {path for path in now if now[path] != before.get(path)} == {out / "table2.md"}
    for changed in (("--set", "seed=1"), ("--steps", 2)):
        refused = call(*words, *changed)
        assert refused.exit_code == 2
        assert "made otherwise" in refused.stderr
    with_lpips = call(*words, "--alexnet", tmp_path / "alexnet.pth", "--dry-run")
    assert "0 of 3 clips" in with_lpips.stdout  # scored without LPIPS, which is asked for now
    scores = next(out.rglob("samples/multiexocon/scores.json"))
    older = json.loads(scores.read_text())
    del older["provenance"]["method"]["motion_lateness"]
    scores.write_text(json.dumps(older))
    lines = [line for line in call(*words, "--dry-run").stdout.splitlines() if "evaluate" in line]
    counted = [line for line in lines if "of 3 clips" in line]
    assert sum("0 of 3 clips" in line for line in counted) == 1  # a measure is younger than it
    assert sum("3 of 3 clips" in line for line in counted) == 2
