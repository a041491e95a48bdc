"""Scores: the paper's own numbers, the literature's examples, and what votes were really for."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from exo2ego.evaluation.study.agreement import krippendorff_alpha
from exo2ego.evaluation.study.ballots import Ballots
from exo2ego.evaluation.study.blinding import rows_for
from exo2ego.evaluation.study.folder import BALLOTS, StudyFault, read_study
from exo2ego.evaluation.study.key import KEY, read_key
from exo2ego.evaluation.study.preference import (
    BASELINE,
    NONE,
    OURS,
    Tally,
    bootstrap_intervals,
    score_ties_half,
    score_without_ties,
    tally,
    wilson_interval,
)
from exo2ego.evaluation.study.score import StudyScores, score
from exo2ego.evaluation.study.score_table import (
    COUNTS,
    SCORES,
    agreement_lines,
    count_rows,
    score_rows,
)

PAPER = Tally(ours=515, none=215, baseline=189)
"""Section 9: 515 for ours, 215 for none, 189 for VAWAN."""
GAP = math.nan


def test_the_papers_votes_give_the_papers_score():
    assert PAPER.votes == 919
    assert score_ties_half(PAPER) == pytest.approx(622.5 / 919)
    assert round(score_ties_half(PAPER) or 0, 2) == 0.68  # section 4.2
    assert round(score_ties_half(PAPER) or 0, 3) == 0.677
    assert round(score_without_ties(PAPER) or 0, 3) == 0.732


def test_nothing_is_invented_without_votes():
    assert score_ties_half(Tally(0, 0, 0)) is None
    assert score_without_ties(Tally(0, 7, 0)) is None
    assert wilson_interval(0, 0) is None


@pytest.mark.parametrize(("successes", "trials"), [(515, 704), (0, 5), (5, 5), (1, 3), (1, 1)])
def test_wilsons_interval_is_scipys(successes: int, trials: int):
    theirs = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((theirs.low, theirs.high))


def test_a_tally_counts_each_answer_and_no_gap():
    votes = np.array([[OURS, OURS, GAP, NONE], [BASELINE, OURS, GAP, GAP]])
    assert tally(votes) == Tally(ours=3, none=1, baseline=1)


def votes_of(people: int, samples: int, gap: float = 0.08, seed: int = 1) -> np.ndarray:
    """Votes in the paper's shares, with gaps."""
    rng = np.random.default_rng(seed)
    shares = np.array([PAPER.ours, PAPER.none, PAPER.baseline]) / PAPER.votes
    votes = rng.choice([OURS, NONE, BASELINE], size=(people, samples), p=shares)
    votes[rng.random(votes.shape) < gap] = GAP
    return votes


def test_bootstrap_intervals_hold_the_score_and_repeat_with_the_seed():
    votes = votes_of(10, 100)
    found = bootstrap_intervals(votes, seed=0)
    assert found == bootstrap_intervals(votes, seed=0) != bootstrap_intervals(votes, seed=1)
    for name, point in (
        ("ties_half", score_ties_half(tally(votes))),
        ("without_ties", score_without_ties(tally(votes))),
    ):
        low, high = found[name] or (1, 0)
        assert low < (point or 0) < high
        assert 0.03 < high - low < 0.16


def test_people_who_each_favour_one_method_make_the_interval_wide():
    alike, apart = votes_of(10, 100, gap=0), np.full((10, 100), OURS)
    apart[7:] = BASELINE
    widths = [
        high - low
        for votes in (alike, apart)
        for low, high in [bootstrap_intervals(votes, seed=0)["ties_half"] or (0, 0)]
    ]
    assert widths[1] > 3 * widths[0]


def test_samples_on_which_all_agree_make_the_interval_wide_too():
    alike, apart = votes_of(100, 10, gap=0), np.full((100, 10), OURS)
    apart[:, 7:] = BASELINE
    widths = [
        high - low
        for votes in (alike, apart)
        for low, high in [bootstrap_intervals(votes, seed=0)["ties_half"] or (0, 0)]
    ]
    assert widths[1] > 3 * widths[0]


def test_one_person_or_one_sample_has_no_bootstrap_interval():
    for votes in (votes_of(1, 9), votes_of(9, 1), np.full((3, 4), GAP), np.zeros((4, 0))):
        assert set(bootstrap_intervals(votes, seed=0).values()) == {None}


def test_replicates_in_which_nobody_decided_are_left_out():
    votes = np.array([[NONE, NONE], [NONE, OURS]])
    found = bootstrap_intervals(votes, seed=0)
    assert found["without_ties"] == (1.0, 1.0)
    assert bootstrap_intervals(np.full((2, 2), NONE), seed=0)["without_ties"] is None


KRIPPENDORFF = np.array(  # Computing Krippendorff's alpha-reliability (2011), part C
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, GAP, GAP, GAP],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, GAP, 3],
        [GAP, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, GAP],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, GAP],
    ]
)


def test_alpha_is_that_of_krippendorffs_own_example_with_gaps():
    assert krippendorff_alpha(KRIPPENDORFF, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(KRIPPENDORFF, "interval") == pytest.approx(0.849, abs=5e-4)


def test_alpha_is_one_for_agreement_and_about_zero_for_chance():
    row = np.array([OURS, NONE, BASELINE, OURS])
    for level in ("nominal", "interval"):
        assert krippendorff_alpha(np.tile(row, (3, 1)), level) == pytest.approx(1)
        assert abs(krippendorff_alpha(votes_of(10, 2000), level) or 1) < 0.02


def test_alpha_is_not_defined_without_pairs_or_without_variety():
    lone = np.array([[OURS, GAP], [GAP, NONE]])
    same = np.full((3, 4), OURS)
    for answers in (lone, same, np.full((2, 2), GAP)):
        assert krippendorff_alpha(answers, "nominal") is None


def cast_all(folder: Path, wishes: list[list[str]]) -> None:
    """Casts what participants prefer (a row each, by the order of samples' ids); - is a gap."""
    study = read_study(folder)
    key = read_key(folder, study)
    box = Ballots.open(folder / BALLOTS, study.study_id)
    for token, wish in zip(box.invite(len(wishes)), wishes, strict=True):
        rows = {row.sample_id: row for row in rows_for(study, token)}
        for sample, wanted in zip(study.samples, wish, strict=True):
            videos, entry = rows[sample.id].videos, key.entries[sample.id]
            sides = {videos["blue"]: "blue", videos["red"]: "red"}
            choices = {"o": sides[entry.ours], "b": sides[entry.baseline], "n": "none"}
            if wanted != "-":
                box.cast(token, sample.id, choices[wanted], videos["blue"])
        if "-" not in wish:
            box.submit(token)
    box.close()


WISHES = [list("oonbo-"), list("ooobon"), list("nobbon")]


def test_votes_are_unblinded_to_what_was_meant(folder: Path):
    cast_all(folder, WISHES)
    scores = score(folder)
    whole = scores.overall
    assert (whole.ours, whole.none, whole.baseline, whole.votes) == (9, 4, 4, 17)
    assert (whole.possible, scores.invited) == (18, 3)
    assert whole.score == pytest.approx(11 / 17)
    assert whole.without_ties == pytest.approx(9 / 13)
    worth = {"o": OURS, "n": NONE, "b": BASELINE, "-": GAP}
    matrix = np.array([[worth[wish] for wish in row] for row in WISHES])
    assert scores.alpha_nominal == pytest.approx(krippendorff_alpha(matrix, "nominal"))
    assert [person.votes for person in scores.participants] == [5, 6, 6]
    assert scores.participants[1].score == pytest.approx(4.5 / 6)
    assert whole.score_interval == bootstrap_intervals(matrix, seed=0)["ties_half"]


def test_categories_add_up_to_all(folder: Path):
    cast_all(folder, WISHES)
    scores, entries = score(folder), read_key(folder, read_study(folder)).entries
    assert set(scores.categories) == {"Bike", "Covid Test"}
    for name, found in scores.categories.items():
        places = [n for n, sample in enumerate(sorted(entries)) if entries[sample].category == name]
        wishes = [row[n] for row in WISHES for n in places]
        assert (found.ours, found.none, found.baseline) == tuple(map(wishes.count, "onb"))


def test_the_table_holds_every_vote_and_no_token(folder: Path, tmp_path: Path):
    cast_all(folder, WISHES)
    scores = score(folder, out=tmp_path / "results")
    text = (tmp_path / "results" / "votes.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["preferred"] for row in rows].count("ours") == scores.overall.ours
    for row in rows:
        side = {"none": "none", row["ours_was"]: "ours"}.get(row["choice"], "baseline")
        assert row["preferred"] == side
    box = Ballots.open(folder / BALLOTS, read_study(folder).study_id)
    tokens = [token for (token,) in box._rows("SELECT token FROM participants")]
    box.close()
    written = text + (tmp_path / "results" / "study-scores.json").read_text()
    assert len(tokens) == 3
    assert not [token for token in tokens if token in written]


def test_scores_say_what_they_were_made_of_and_survive_json(folder: Path):
    cast_all(folder, WISHES)
    scores = score(folder)
    assert StudyScores.model_validate_json((folder / "study-scores.json").read_bytes()) == scores
    provenance = scores.provenance
    assert provenance["ours"]["settings"]["step"] == 100
    assert provenance["baseline"]["settings"]["step"] == 200
    assert {"study_id", "seed", "store_hash", "votes_digest", "method"} <= set(provenance)
    assert score(folder) == scores


def test_who_has_not_submitted_may_be_left_out(folder: Path):
    cast_all(folder, WISHES)
    scores = score(folder, only_submitted=True)
    assert [person.participant for person in scores.participants] == [2, 3]
    assert (scores.overall.votes, scores.overall.possible) == (12, 12)


def test_a_favoured_side_is_told(folder: Path):
    study = read_study(folder)
    box = Ballots.open(folder / BALLOTS, study.study_id)
    for token in box.invite(4):
        for row in rows_for(study, token):
            box.cast(token, row.sample_id, "blue", row.videos["blue"])
    box.close()
    scores = score(folder)
    assert scores.blue_share == 1
    assert scores.blue_share_wilson == wilson_interval(24, 24)


def test_people_read_the_same_figures(folder: Path):
    cast_all(folder, WISHES)
    scores = score(folder)
    counts, rows = count_rows(scores), score_rows(scores)
    assert ({len(row) for row in counts}, {len(row) for row in rows}) == (
        {len(COUNTS)},
        {len(SCORES)},
    )
    assert counts[-1] == ["all", "17 of 18", "9", "4", "4"]
    low, high = scores.overall.score_interval or (0, 0)
    assert rows[-1][1] == f"0.647 [{low:.3f}, {high:.3f}]"
    assert "3 invited, 3 counted, 2 of them submitted" in agreement_lines(scores)[0]


def test_one_participants_intervals_are_not_measured(folder: Path):
    cast_all(folder, [list("oooooo")])
    scores = score(folder)
    assert (scores.overall.score_interval, scores.alpha_nominal) == (None, None)
    assert score_rows(scores)[-1][1] == "1.000 not measured"
    assert json.loads((folder / "study-scores.json").read_text())["alpha_nominal"] is None


def test_no_votes_are_a_fault(folder: Path):
    with pytest.raises(StudyFault, match="0 invited"):
        score(folder)
    cast_all(folder, WISHES[:1])
    with pytest.raises(StudyFault, match="0 submitted, 5 votes"):
        score(folder, only_submitted=True)


def test_votes_on_videos_that_the_key_does_not_know_are_a_fault(folder: Path):
    cast_all(folder, WISHES)
    key = json.loads((folder / KEY).read_text())
    sample = next(iter(key["entries"]))
    key["entries"][sample]["ours"] = key["entries"][sample]["baseline"] = "0" * 32
    (folder / KEY).write_text(json.dumps(key))
    with pytest.raises(StudyFault, match="does not show"):
        score(folder)
    (folder / KEY).unlink()
    with pytest.raises(StudyFault):
        score(folder)
