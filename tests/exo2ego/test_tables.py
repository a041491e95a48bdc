"""The paper's tables: its cells, our results in the right rows, and nothing mixed in silence."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from exo2ego.evaluation.tables.claims import claims, contradictions, published_scores
from exo2ego.evaluation.tables.fill import FilledTable, fill
from exo2ego.evaluation.tables.forms import FORMS
from exo2ego.evaluation.tables.page import tables_page
from exo2ego.evaluation.tables.published import System, published_table, published_tables
from exo2ego.evaluation.tables.result import ResultFault, read_result
from exo2ego.evaluation.tables.systems import find_system, row_systems
from exo2ego.training.experiment_file import ExperimentFault, experiment_names
from exo2ego.training.lineage import Trained

Make = Callable[..., Trained]
Write = Callable[..., Path]
BIKE = {"bike": (15.5, 0.4, 0.5)}


def empty() -> list[FilledTable]:
    return [fill(table, []) for table in published_tables()]


def filled(number: int, *results: Path) -> FilledTable:
    return fill(published_table(number), [read_result(path) for path in results])


def measured(table: FilledTable) -> dict[tuple[str, ...], list[tuple[object, ...]]]:
    """Our numbers by the labels of their row, of rows that have some."""
    return {
        row.labels: [one.measured for one in cells]
        for row, cells in table.rows
        if any(one.mark for one in cells)
    }


# --- the paper's cells ------------------------------------------------------------------------


def test_there_are_six_tables_with_the_papers_numbers_of_cells():
    cells = {one.table.number: 3 * len(one.cells) for one in empty()}
    assert cells == {1: 24, 2: 9, 3: 15, 4: 30, 5: 9, 6: 15}


@pytest.mark.parametrize(
    ("number", "sums"),
    [
        (1, (123.0768, 3.5854, 3.9675)),
        (2, (45.2904, 1.1569, 1.4411)),
        (3, (72.1955, 1.7193, 2.8495)),
        (4, (155.4336, 4.4607, 4.4817)),
        (5, (43.8890, 1.0389, 1.7081)),
        (6, (75.2291, 2.0614, 2.2223)),
    ],
)
def test_columns_add_up_to_what_they_do_in_the_papers_text(
    number: int, sums: tuple[float, float, float]
):
    cells = [one.cells.scores for one in fill(published_table(number), []).cells]
    assert [sum(column) for column in zip(*cells, strict=True)] == pytest.approx(sums, abs=1e-9)


def test_every_row_names_an_experiment_that_ships_and_every_experiment_has_a_row():
    systems = row_systems()
    named = {name for one in systems for name in (one.experiment, one.align) if name}
    assert named == {name for name in experiment_names() if not name.startswith(("demo", "mini"))}


def test_the_same_system_is_printed_with_the_same_score_but_for_the_large_st_transformer():
    found = contradictions(empty())
    assert len(found) == 2
    assert all("Table 3, VAWAN ST-TransformerL" in words for words in found)


def test_ten_percent_of_ssim_does_not_follow_from_table_1_and_sixteen_of_lpips_does():
    verdicts = {claim.says: claim.of(published_scores(empty())) for claim in claims()}
    ssim = verdicts["about 10 % more SSIM on average (Table 1)"]
    lpips = verdicts["16 % less LPIPS on average (Table 1)"]
    assert (ssim.follows, ssim.because[:6]) == (False, "+7.3 %")
    assert (lpips.follows, lpips.because[:7]) == (True, "-15.4 %")


def test_of_the_other_claims_only_the_views_of_table_6_do_not_follow():
    verdicts = {claim.says: claim.of(published_scores(empty())).follows for claim in claims()}
    assert [says for says, follows in verdicts.items() if not follows] == [
        "about 10 % more SSIM on average (Table 1)",
        "more exo views are better given the true frame, too (Table 6; not claimed there)",
    ]


def test_a_claim_on_missing_cells_is_open():
    assert {claim.of({}).follows for claim in claims()} == {None}


# --- which row a result belongs to ------------------------------------------------------------


@pytest.mark.parametrize("system", row_systems(), ids=str)
def test_every_system_is_known_by_its_settings(
    system: System, trained: Make, write_result: Write, tmp_path: Path
):
    parent = {"poseinj": "multiexocon", "poseinj-gt": "multiexocon-gt"}.get(system.experiment)
    path = write_result(
        tmp_path / "a",
        trained(system.experiment),
        BIKE,
        parents=(trained(parent),) if parent else (),
        align=trained(system.align) if system.align else None,
    )
    assert read_result(path).system == system


def test_how_it_is_trained_makes_no_other_system_and_is_told(
    trained: Make, write_result: Write, tmp_path: Path
):
    run = trained("multiexocon", "optimiser.steps=20", "optimiser.warmup_steps=2", step=15)
    align = trained("align", "seed=3", store="6")
    result = read_result(write_result(tmp_path / "a", run, BIKE, align=align, missing=["c"]))
    assert result.system == System(experiment="multiexocon", align="align")
    assert result.notes == [
        "optimiser.warmup_steps = 2, not 200, optimiser.steps = 20, not 100000, "
        "step 15 of 20: not finished",
        "align: seed = 3, not 0",
        "a part of it was trained on another store (666666666666)",
        "1 clips missing",
    ]


def test_a_run_as_the_paper_has_it_has_no_notes(trained: Make, write_result: Write, tmp_path: Path):
    path = write_result(tmp_path / "a", trained("vawan"), BIKE, align=trained("align"))
    assert read_result(path).notes == []


@pytest.mark.parametrize(
    ("name", "overrides", "because"),
    [
        ("vawan", ["vawan.views=3"], "vawan.views = 3, not"),
        ("multiexocon", ["exo_dropout=0.2"], "exo_dropout = 0.2, not 0.1"),
        ("multiexocon", ["lora.rank=4"], "lora.rank = 4, not 128"),
    ],
)
def test_another_system_fits_no_row_and_says_why(
    name: str,
    overrides: list[str],
    because: str,
    trained: Make,
    write_result: Write,
    tmp_path: Path,
):
    run = trained(name, *overrides)
    path = write_result(tmp_path / "a", run, BIKE, align=trained("align"))
    page = FORMS["markdown"](tables_page([path]))
    assert "Results that fit no row" in page
    assert because in page
    assert "0 of 24 cells measured" in page


def test_another_align_makes_another_row_of_vawan(
    trained: Make, write_result: Write, tmp_path: Path
):
    path = write_result(tmp_path / "a", trained("vawan"), BIKE, align=trained("align-s"))
    assert list(measured(filled(3, path))) == [("VAWAN", "ST-TransformerS", "Y")]
    assert measured(filled(1, path)) == {}


def test_poseinj_on_a_parent_of_another_condition_fits_no_row(
    trained: Make, write_result: Write, tmp_path: Path
):
    parents = (trained("multiexocon-gt"),)
    run, align = trained("poseinj"), trained("align")
    result = read_result(write_result(tmp_path / "a", run, BIKE, parents=parents, align=align))
    assert "goes on from multiexocon" in str(result.system)


def test_an_experiment_of_another_version_is_refused(
    trained: Make, write_result: Write, tmp_path: Path
):
    run = trained("vawan")
    old = run.model_copy(update={"experiment": run.experiment | {"colour": "blue"}})
    result = read_result(write_result(tmp_path / "a", old, BIKE, align=trained("align")))
    with pytest.raises(ExperimentFault, match="colour"):
        find_system(result.settings.origin or pytest.fail("no origin"))


# --- what stands in a table -------------------------------------------------------------------


def test_one_result_fills_the_rows_of_all_its_categories(
    trained: Make, write_result: Write, tmp_path: Path
):
    scores = {"bike": (1.0, 0.1, 0.2), "cpr": (2.0, 0.3, "not measured")}
    path = write_result(tmp_path / "a", trained("vawan"), scores, align=trained("align"))
    table = filled(1, path)
    assert measured(table) == {
        ("Bike", "VAWAN"): [(1.0, 0.1, 0.2)],
        ("CPR", "VAWAN"): [(2.0, 0.3, "not measured")],
    }
    assert "5 of 24 cells measured, 18 empty, 1 not measured" in table.counts


def test_two_results_for_one_row_are_refused(trained: Make, write_result: Write, tmp_path: Path):
    run, align = trained("vawan"), trained("align")
    paths = [write_result(tmp_path / name, run, BIKE, align=align) for name in "ab"]
    with pytest.raises(ResultFault, match="Two results belong into one row") as fault:
        filled(1, *paths)
    assert str(paths[0]) in str(fault.value)
    assert str(paths[1]) in str(fault.value)


@pytest.mark.parametrize(
    ("differs", "what"),
    [
        ({"settings": {"store_hash": "8" * 64}}, "store"),
        ({"clips": ("a",), "missing": ("b",)}, "clips"),
        ({"clips": ("a", "c")}, "clips"),
        ({"provenance": {"clips": {"evaluation_set": "test-all", "split": None}}}, "set"),
        ({"provenance": {"method": {"psnr": "another"}}}, "method"),
    ],
)
def test_results_that_must_not_be_compared_are_refused(
    differs: dict[str, object], what: str, trained: Make, write_result: Write, tmp_path: Path
):
    align, parents = trained("align"), (trained("multiexocon"),)
    first = write_result(tmp_path / "a", trained("vawan"), BIKE, align=align)
    second = write_result(
        tmp_path / "b", trained("poseinj"), BIKE, align=align, parents=parents, **differs
    )
    with pytest.raises(ResultFault, match="the same clips") as fault:
        filled(1, first, second)
    assert what in str(fault.value.where)


def test_categories_may_lie_in_stores_of_their_own(
    trained: Make, write_result: Write, tmp_path: Path
):
    align, cpr = trained("align"), {"cpr": (1.0, 0.1, 0.2)}
    first = write_result(tmp_path / "a", trained("vawan"), BIKE, align=align)
    other = trained("vawan", store="9")
    second = write_result(tmp_path / "b", other, cpr, align=trained("align", store="9"), clips="c")
    assert len(measured(filled(1, first, second))) == 2


# --- what cannot be read ----------------------------------------------------------------------


def test_a_result_with_nan_is_refused_by_the_name_of_its_clip(
    trained: Make, write_result: Write, tmp_path: Path
):
    scores = {"bike": (float("nan"), 0.4, 0.5)}
    path = write_result(tmp_path / "a", trained("vawan"), scores, align=trained("align"))
    with pytest.raises(ResultFault, match="not a number") as fault:
        read_result(path)
    assert "clip a" in str(fault.value)


def spoil(path: Path, change: Callable[[dict], object]) -> Path:
    plain = json.loads((path / "scores.json").read_text())
    change(plain)
    (path / "scores.json").write_text(json.dumps(plain))
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda plain: plain.pop("clips"), "clips: Field required"),
        (lambda plain: plain["provenance"].pop("clips"), "older version"),
        (lambda plain: plain.pop("intervals"), "older version"),
        (lambda plain: plain["provenance"].pop("samples"), "another version"),
        (lambda plain: plain["provenance"]["samples"].update(colour=1), "colour"),
    ],
)
def test_results_of_other_versions_are_refused(
    change: Callable[[dict], object],
    says: str,
    trained: Make,
    write_result: Write,
    tmp_path: Path,
):
    path = write_result(tmp_path / "a", trained("vawan"), BIKE, align=trained("align"))
    with pytest.raises(ResultFault, match=says):
        read_result(spoil(path, change))


def test_samples_that_do_not_know_their_experiment_fit_no_row(
    trained: Make, write_result: Write, tmp_path: Path
):
    path = write_result(tmp_path / "a", trained("vawan"), BIKE, align=trained("align"))
    spoil(path, lambda plain: plain["provenance"]["samples"].pop("origin"))
    assert "older version" in str(read_result(path).system)


def test_a_folder_without_scores_is_refused(tmp_path: Path):
    done = CliRunner().invoke(app, ["tables", str(tmp_path)])
    assert done.exit_code == 2
    assert "exo2ego evaluate" in done.stderr


# --- forms ------------------------------------------------------------------------------------


@pytest.fixture
def shown(trained: Make, write_result: Write, tmp_path: Path) -> Path:
    """A result in a folder whose name every form has to escape."""
    folder = tmp_path / "50%_<b>&|"
    return write_result(folder, trained("vawan"), BIKE, align=trained("align"))


def test_markdown_rows_have_as_many_cells_as_their_header(shown: Path):
    text = FORMS["markdown"](tables_page([shown], [4, 1]))
    blocks = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    for lines in blocks:
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "| Bike       | VAWAN  | 14.8511 | 15.5000 [a] |" in text


def test_latex_escapes_what_it_would_read(shown: Path):
    text = FORMS["latex"](tables_page([shown], [1]))
    assert r"50\%\_<b>\&|" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    rows = [line for line in text.splitlines() if line.startswith("Bike")]
    assert {line.count("&") for line in rows} == {7}


class Tags(HTMLParser):
    """Counts tags and fails on one that is closed before its children."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_whole_and_asks_for_nothing(shown: Path):
    text = FORMS["html"](tables_page([shown], [1]))
    page = Tags()
    page.feed(text)
    assert page.open == []
    assert "50%_<b>&|" in page.text
    assert page.seen.count("table") == 2
    assert "src=" not in text
    assert "http" not in text


def test_the_command_prints_one_table(shown: Path):
    done = CliRunner().invoke(app, ["tables", str(shown), "--table", "5", "--format", "markdown"])
    assert done.exit_code == 0, done.stderr
    assert "Table 5" in done.stdout
    assert "Table 1." not in done.stdout
    assert "15.5000 [a]" in done.stdout
