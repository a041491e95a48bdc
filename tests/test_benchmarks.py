"""Claims about the benchmarks' frame: what a row says, and that the folder's modules are found."""

import pytest

from benchmarks.__main__ import find_benchmarks, main
from benchmarks.rows import Row, interleaved_seconds


@pytest.mark.parametrize(
    ("row", "is_met", "says"),
    [
        (Row("rate", 0.6, "", at_least=0.5), True, "met"),
        (Row("rate", 0.4, "", at_least=0.5), False, "MISSED"),
        (Row("time", 3.0, "s", at_most=2.0), False, "<= 2 s"),
        (Row("speed", 3.0, "clips/s"), None, "3 clips/s"),
    ],
)
def test_a_row_says_whether_its_bar_is_met(row: Row, is_met: bool | None, says: str) -> None:
    assert row.is_met is is_met
    assert says in str(row)


def test_works_take_turns_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []
    works = {name: lambda name=name: turns.append(name) for name in ("a", "b")}
    assert set(interleaved_seconds(works, 2)) == {"a", "b"}
    assert turns == ["a", "b"] * 3


def test_the_folders_benchmarks_are_found_and_others_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "ingest" in find_benchmarks()
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "no such benchmark: nothing" in capsys.readouterr().err
