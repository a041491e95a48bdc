"""Systems over seeds: means, intervals and gains are of the takes, and nothing is mixed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from exo2ego.evaluation.bootstrap import mean_interval
from exo2ego.evaluation.reproduce.mini_sheet import CAPTION_COLUMNS, draw_sheet
from exo2ego.evaluation.reproduce.mini_tables import MINI_TABLES
from exo2ego.evaluation.sample_files import write_frames
from exo2ego.evaluation.tables.evidence import evidence
from exo2ego.evaluation.tables.markdown import markdown
from exo2ego.evaluation.tables.result import ResultFault
from exo2ego.evaluation.tables.seed_scores import read_scores, read_seeds, write_scores
from exo2ego.training.lineage import Trained
from stores.reading import Store

Make = Callable[..., Trained]
Scored = Callable[..., Path]
TAKES = ("a", "b", "c")
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def scored(trained: Make, write_result: Scored, tmp_path: Path) -> Scored:
    """Writes scores of three takes with these decibels."""

    def write(name: str, *decibels: float, clips: tuple[str, ...] = ("x", "y")) -> Path:
        takes = dict(zip(TAKES, decibels, strict=True))
        mean = sum(decibels) / len(decibels)
        of = {"bike": (mean, 0.5, 0.25)}
        return write_result(tmp_path / name, trained("vawan"), of, takes=takes, clips=clips)

    return write


def test_a_row_is_the_mean_over_takes_of_the_mean_over_seeds(scored: Scored):
    folders = [scored("0", 10, 20, 30), scored("1", 14, 20, 38)]
    (section,) = evidence(read_seeds({"one": folders}), "ours")
    row = dict(zip(section.header, section.rows[0], strict=True))
    low, high = mean_interval([12.0, 20.0, 34.0], "one/psnr") or (0, 0)
    assert row["PSNR↑"] == f"22.00 ({low:.2f} to {high:.2f})"
    assert (row["seeds"], row["clips"]) == ("2", "2 of 3 takes")
    assert row["view bias↓"] == "not measured"


def test_a_gain_is_of_the_same_takes_and_certain_where_every_take_gains_alike(scored: Scored):
    results = {"other": [scored("o", 10, 20, 36)], "ours": [scored("m", 11, 21, 37)]}
    _, gains = evidence(read_seeds(results), "ours")
    assert gains.header[0] == "ours less"
    assert gains.rows == [
        ["other", "+1.00 (+1.00 to +1.00)", "+0.000 (+0.000 to +0.000)", "not measured", "+1.00"]
    ]


def test_gains_by_seed_pair_the_seeds_that_both_have(scored: Scored, tmp_path: Path):
    other = [tmp_path / "not scored", scored("o1", 10, 10, 10)]
    ours = [scored("m0", 50, 50, 50), scored("m1", 12, 12, 12)]
    _, gains = evidence(read_seeds({"other": other, "ours": ours}), "ours")
    assert gains.rows[0][-1] == "+2.00"


def test_scores_of_other_clips_are_refused(scored: Scored):
    results = {"other": [scored("o", 1, 2, 3)], "ours": [scored("m", 1, 2, 3, clips=("x",))]}
    with pytest.raises(ResultFault, match="different clips"):
        read_seeds(results)


def test_the_tables_are_those_of_the_scores_that_were_written(scored: Scored, tmp_path: Path):
    odd = [scored("0", 1 / 3, 20, 30.000000000000004), scored("1", 14, 20, 38)]
    scores = read_seeds({"one, or two": odd, "ours": [scored("m", 1, 2, 3)]})
    write_scores(tmp_path / "mini.csv", scores)
    assert read_scores(tmp_path / "mini.csv") == scores
    assert len((tmp_path / "mini.csv").read_text().splitlines()) == 1 + 3 * len(TAKES)


def test_a_table_of_several_stores_says_which_seed_is_of_which(scored: Scored):
    first, second = read_seeds({"ours": [scored("0", 1, 2, 3), scored("1", 1, 2, 3)]})
    (section, _) = evidence([first, replace(second, store_hash="9c07" * 16)], "ours")
    assert section.notes == [
        f"Store {first.store_hash[:12]}: ours, seed 0.",
        "Store 9c079c079c07: ours, seed 1.",
    ]


def test_a_csv_with_a_word_for_a_number_or_of_other_takes_is_refused(
    scored: Scored, tmp_path: Path
):
    file = tmp_path / "mini.csv"
    write_scores(file, read_seeds({"ours": [scored("0", 1, 2, 3), scored("1", 1, 2, 3)]}))
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    with pytest.raises(ResultFault, match="different takes"):
        read_scores(file)
    file.write_text("".join(lines).replace("0.5", "half"))
    with pytest.raises(ResultFault, match="half"):
        read_scores(file)


@pytest.mark.parametrize("scores", sorted(DOCS.glob("mini*.csv")), ids=lambda path: path.stem)
def test_what_the_documentation_shows_are_the_tables_of_its_scores(scores: Path):
    shown = (DOCS / "experiments.md").read_text(encoding="utf-8").splitlines()
    sections = evidence(read_scores(scores), MINI_TABLES[scores.stem].compared)
    rows = [line for line in markdown(sections).splitlines() if line.startswith("|")]
    assert rows and [line for line in rows if line not in shown] == []


def test_the_sheet_has_a_row_a_system_between_an_exo_view_and_the_truth(
    framed_store: Store, tmp_path: Path
):
    store = framed_store
    tests = {row.category: row.clip_id for row in reversed(store.rows) if row.split == "test"}
    shape = store.read("ego_frames", list(tests.values())[:1]).shape[1:]
    white = torch.full(shape, 255, dtype=torch.uint8)
    for clip_id in tests.values():
        write_frames(tmp_path, clip_id, white)
    results = {"white": tmp_path, "not there": tmp_path / "none"}
    draw_sheet(store, results, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    high, wide = shape[1], shape[2] * 3 * len(tests)
    assert sheet.shape == (3 * high, CAPTION_COLUMNS + wide, 3)
    pictures = sheet[:, CAPTION_COLUMNS:]
    assert (pictures[high : 2 * high] == 255).all()
    first = store.read("ego_frames", [tests[min(tests)]])[0, 0]
    assert (pictures[2 * high :, : shape[2]] == first).all()
