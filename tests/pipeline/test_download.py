"""Claims about what is said to be fetched: pipeline/download.py."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from pipeline.download import PART_BYTES, UIDS_A_COMMAND, DownloadFault, download_plan


def listed(root: Any, *takes: tuple[str, str, str, float]) -> Path:
    for name, category, split, seconds in takes:
        take = root.add(name, category=category, split=split)
        take.entry.update(duration_sec=seconds, capture_uid=f"capture-{name}")
    return root.write()


def words(command: str, option: str) -> list[str]:
    """What follows an option of a command."""
    parts = shlex.split(command)
    rest = parts[parts.index(option) + 1 :]
    ends = [place for place, word in enumerate(rest) if word.startswith("-")]
    return rest[: min(ends, default=len(rest))]


def test_lists_come_first_and_without_uids_which_would_leave_them_out(root: Any) -> None:
    plan = download_plan(listed(root, ("cmu_bike01_2", "bike", "train", 20.0)))
    assert [words(step.command, "--parts") for step in plan.dataset] == [
        ["metadata"],
        ["annotations"],
        ["take_trajectory"],
        ["downscaled_takes/448"],
        ["captures"],
    ]
    assert ["--uids" in step.command for step in plan.dataset] == [False, False, True, True, True]


def test_captures_are_asked_for_by_their_own_uids(root: Any) -> None:
    plan = download_plan(listed(root, ("cmu_bike01_2", "bike", "train", 20.0)))
    uids = [words(step.command, "--uids") for step in plan.dataset[2:]]
    assert uids == [["uid-cmu_bike01_2"], ["uid-cmu_bike01_2"], ["capture-cmu_bike01_2"]]


def test_only_takes_of_the_categories_and_splits_asked_for_are_fetched(root: Any) -> None:
    path = listed(
        root,
        ("cmu_bike01_2", "bike", "train", 20.0),
        ("nus_cpr_12_1", "cpr", "train", 20.0),
        ("nus_cpr_12_2", "cpr", "test", 20.0),
        ("sfu_cooking_1", "cooking", "test", 20.0),
    )
    plan = download_plan(path, categories=("cpr", "cooking"), splits=("test",))
    assert plan.takes_of == {"cooking/test": 1, "cpr/test": 1}
    assert words(plan.dataset[2].command, "--uids") == ["uid-nus_cpr_12_2", "uid-sfu_cooking_1"]
    with pytest.raises(DownloadFault, match="bike"):
        download_plan(path, categories=("surgery",))


def test_bytes_are_the_parts_share_by_seconds_and_called_an_estimate(root: Any) -> None:
    path = listed(
        root,
        ("cmu_bike01_2", "bike", "train", 30.0),
        ("sfu_cooking_1", "cooking", "train", 90.0),
    )
    plan = download_plan(path)
    videos = plan.dataset[3]
    assert videos.bytes == PART_BYTES["downscaled_takes/448"] // 4
    assert videos.is_estimate and "25.0%" in videos.basis
    assert not plan.dataset[0].is_estimate
    assert plan.hours == pytest.approx(30 / 3600)
    full = download_plan(path, videos="full").dataset[3]
    assert (words(full.command, "--parts"), full.bytes) == (["takes"], PART_BYTES["takes"] // 4)


def test_without_metadata_the_plan_is_how_to_get_it(tmp_path: Path) -> None:
    plan = download_plan(tmp_path / "none")
    assert (plan.takes, len(plan.dataset)) == (0, 2)
    assert "ask again" in str(plan)


def test_a_long_list_of_uids_is_cut_and_none_is_lost(root: Any) -> None:
    take = root.add("cmu_bike01_2")
    path = root.write()
    count = UIDS_A_COMMAND + 7
    entries = [
        {**take.entry, "take_name": f"bike_{n}", "take_uid": f"u{n}", "duration_sec": 10.0}
        for n in range(count)
    ]
    (path / "takes.json").write_text(json.dumps(entries))
    splits = {"take_uid_to_split": {f"u{n}": "val" for n in range(count)}}
    (path / "annotations" / "splits.json").write_text(json.dumps(splits))
    steps = [step for step in download_plan(path).dataset if "take_trajectory" in step.command]
    uids = [uid for step in steps for uid in words(step.command, "--uids")]
    assert (len(steps), sorted(uids)) == (2, sorted(f"u{n}" for n in range(count)))
    assert abs(sum(step.bytes for step in steps) - PART_BYTES["take_trajectory"]) <= 2


def test_of_wan_only_what_is_used_is_fetched(tmp_path: Path) -> None:
    (step,) = download_plan(tmp_path).weights
    parts = shlex.split(step.command)
    patterns = [word for place, word in enumerate(parts) if parts[place - 1] == "--include"]
    assert patterns == ["transformer_2/*", "vae/*", "scheduler/*"]
    assert step.bytes == pytest.approx(57.66e9, rel=1e-3)


def test_the_plan_printed_is_a_shell_script(root: Any) -> None:
    plan = download_plan(listed(root, ("cmu_bike01_2", "bike", "train", 20.0)))
    lines = [line for line in str(plan).splitlines() if line and not line.startswith("#")]
    assert lines == [step.command for step in (*plan.dataset, *plan.weights)]
