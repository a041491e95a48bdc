"""Claims about versions after one another: what the log and a diff tell, and what tags name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stores.errors import StoreFault
from stores.history import diff, log, tag, untag
from stores.index import ClipRow
from stores.lock import write_lock
from stores.version import (
    StoreRecipe,
    as_stored,
    list_versions,
    move_head,
    read_head,
    read_version,
)
from stores.zarr_store import commit, create_store, head_clips, open_store

Add = Callable[..., str]


@pytest.fixture
def three(tmp_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Add) -> list[str]:
    """Hashes of three versions in tmp_path/s: four clips, then seven, then one of them changed."""
    path = tmp_path / "s"
    hashes = [add_clips(path, rows[:4], arrays), add_clips(path, rows[4:], arrays)]
    arrays[rows[1].clip_id]["ego_rays"] += 1
    return [*hashes, add_clips(path, rows[1:2], arrays)]


def test_the_log_goes_from_head_back_to_the_first_version(tmp_path: Path, three: list) -> None:
    entries = log(tmp_path / "s")
    assert [entry.hash for entry in entries] == three[::-1]
    counts = [(entry.clips, entry.added, entry.changed, entry.removed) for entry in entries]
    assert counts == [(7, 0, 1, 0), (7, 3, 0, 0), (4, 4, 0, 0)]
    assert {(entry.command, entry.on_path) for entry in entries} == {("test", True)}


def test_a_version_that_head_left_behind_is_told_last(tmp_path: Path, three: list) -> None:
    move_head(tmp_path / "s", read_head(tmp_path / "s"), three[1])
    assert [(entry.hash, entry.on_path) for entry in log(tmp_path / "s")] == [
        (three[1], True),
        (three[0], True),
        (three[2], False),
    ]


def test_the_log_of_a_version_starts_there(tmp_path: Path, three: list) -> None:
    found = log(f"{tmp_path / 's'}@{three[0][:8]}")
    assert (found[0].hash, found[0].on_path) == (three[0], True)
    assert not any(entry.on_path for entry in found[1:])


def test_a_parent_that_is_gone_has_nothing_to_compare_with(tmp_path: Path, three: list) -> None:
    for path in (tmp_path / "s" / "versions").glob(f"{three[0]}*"):
        path.unlink()
    last = log(tmp_path / "s")[-1]
    assert (last.hash, last.parent) == (three[1], three[0])
    assert (last.added, last.changed, last.removed) == (None, None, None)


def test_a_head_that_names_no_version_is_told(tmp_path: Path, three: list) -> None:
    move_head(tmp_path / "s", read_head(tmp_path / "s"), "0" * 64)
    with pytest.raises(StoreFault, match="altered or is incomplete"):
        log(tmp_path / "s")


def test_a_version_does_not_differ_from_itself(tmp_path: Path, three: list) -> None:
    found = diff(tmp_path / "s", f"{tmp_path / 's'}@{three[2]}")
    assert found.is_same and not found.recipe and not found.changed
    assert found.only_in_a == found.only_in_b == ()


def test_a_diff_names_clips_and_arrays(tmp_path: Path, three: list, rows: list) -> None:
    found = diff(f"{tmp_path / 's'}@{three[0]}", tmp_path / "s")
    assert found.hashes == (three[0], three[2]) and found.clips == (4, 7)
    assert found.only_in_a == ()
    assert found.only_in_b == tuple(sorted(row.clip_id for row in rows[4:]))
    (change,) = found.changed
    assert change.clip_id == rows[1].clip_id
    assert (change.arrays, change.fields) == (("ego_rays: other numbers",), ())


def test_a_diff_names_what_the_index_says_otherwise(tmp_path: Path, three: list) -> None:
    path = tmp_path / "s"
    old = head_clips(path)[0]
    moved = replace(old.ego, world_from_cam=old.ego.world_from_cam + 0.0)
    moved.world_from_cam[:, 0, 3] += 0.25
    new = as_stored(replace(old, split="val", ego=moved), old.rows, old.digests)
    commit(path, [new], command="relabel", index_digest="dd")
    (change,) = diff(f"{path}@{three[2]}", path).changed
    assert change.arrays == ()
    assert change.fields == ("split: train -> val", "aria moved by 250 mm, 0 degrees")


def test_a_diff_names_arrays_that_only_one_version_keeps(tmp_path: Path, three: list) -> None:
    path = tmp_path / "s"
    old = head_clips(path)[-1]
    kept = {name: digest for name, digest in old.digests.items() if name != "ego_frames"}
    commit(path, [as_stored(old, old.rows, kept)], command="drop", index_digest="dd")
    (change,) = diff(f"{path}@{three[2]}", path).changed
    assert change.arrays == ("ego_frames: only in a",)


def test_a_diff_names_the_fields_of_the_recipes(
    tmp_path: Path, three: list, recipe: StoreRecipe
) -> None:
    clips = recipe.clips.model_copy(update={"stride": 2})
    other, path = recipe.model_copy(update={"clips": clips}), tmp_path / "other"
    create_store(path, other)
    commit(path, head_clips(tmp_path / "s"), command="test", index_digest="cc")
    found = diff(tmp_path / "s", path)
    assert found.recipe == {"clips.stride": (4, 2)}
    assert not found.is_same and not found.changed


def test_a_tag_opens_its_version_whatever_head_is(tmp_path: Path, three: list) -> None:
    path = tmp_path / "s"
    assert tag(path, "paper-v1", three[0][:9]) == three[0]
    assert tag(path, "now") == three[2]
    assert open_store(f"{path}@paper-v1").hash == three[0]
    assert len(open_store(f"{path}@paper-v1").clip_ids) == 4
    assert [entry.tags for entry in log(path)] == [("now",), (), ("paper-v1",)]


def test_a_tag_can_be_named_after_another_one(tmp_path: Path, three: list) -> None:
    path = tmp_path / "s"
    tag(path, "first", three[0])
    assert tag(path, "again", "first") == tag(f"{path}@first", "once-more") == three[0]


def test_an_untagged_name_opens_nothing_and_its_version_stays(tmp_path: Path, three: list) -> None:
    path = tmp_path / "s"
    tag(path, "paper-v1", three[0])
    assert untag(path, "paper-v1") == three[0]
    with pytest.raises(StoreFault, match="not known"):
        open_store(f"{path}@paper-v1")
    assert three[0] in list_versions(path)
    with pytest.raises(StoreFault, match="no such tag"):
        untag(path, "paper-v1")


def test_a_tag_does_not_move(tmp_path: Path, three: list) -> None:
    path = tmp_path / "s"
    tag(path, "paper-v1", three[0])
    assert tag(path, "paper-v1", three[0]) == three[0]
    with pytest.raises(StoreFault, match="do not move"):
        tag(path, "paper-v1", three[1])
    assert open_store(f"{path}@paper-v1").hash == three[0]


@pytest.mark.parametrize("version", ["0" * 64, "no-such-tag"])
def test_a_version_that_is_not_there_is_not_tagged(
    tmp_path: Path, three: list, version: str
) -> None:
    with pytest.raises(StoreFault, match="not known"):
        tag(tmp_path / "s", "paper-v1", version)
    assert not (tmp_path / "s" / "tags.json").exists()


def test_an_altered_version_is_not_tagged(tmp_path: Path, three: list) -> None:
    (tmp_path / "s" / "versions" / f"{three[0]}.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreFault, match="altered"):
        tag(tmp_path / "s", "paper-v1", three[0])


@pytest.mark.parametrize(
    "name",
    ["1a2b", "face", "ABBA", "HEAD", "head", "", "../x", "a b", "a@b", "-x", ".x", "ä", "x\n"],
)
def test_a_name_that_is_odd_or_like_a_hash_is_refused(
    tmp_path: Path, three: list, name: str
) -> None:
    with pytest.raises(StoreFault, match="this name"):
        tag(tmp_path / "s", name)


def test_a_tag_waits_for_no_writer(tmp_path: Path, three: list) -> None:
    path = tmp_path / "s"
    with write_lock(path), pytest.raises(StoreFault, match="Somebody else"):
        tag(path, "paper-v1")
    tag(path, "paper-v1")
    with write_lock(path), pytest.raises(StoreFault, match="Somebody else"):
        untag(path, "paper-v1")


@pytest.mark.parametrize("text", ['{"paper-v1": 7}', '["paper-v1"]', '{"paper'])
def test_damaged_tags_are_told_and_hashes_still_open(
    tmp_path: Path, three: list, text: str
) -> None:
    path = tmp_path / "s"
    (path / "tags.json").write_text(text)
    with pytest.raises(StoreFault, match="tags of the store"):
        open_store(f"{path}@paper-v1")
    assert open_store(f"{path}@{three[0]}").hash == three[0]
    assert open_store(path).hash == three[2]


def test_a_tag_of_a_version_that_was_lost_is_told(tmp_path: Path, three: list) -> None:
    path = tmp_path / "s"
    tag(path, "paper-v1", three[0])
    (path / "versions" / f"{three[0]}.json").unlink()
    with pytest.raises(StoreFault, match="incomplete"):
        open_store(f"{path}@paper-v1")


@pytest.mark.parametrize("verb", [log, untag, tag, diff])
def test_what_is_no_store_is_told_and_not_made(tmp_path: Path, verb: Callable) -> None:
    path = tmp_path / "nothing"
    with pytest.raises(StoreFault, match="not a store"):
        verb(path) if verb is log else verb(f"{path}@x", "name")
    assert not path.exists()


def test_a_history_that_returns_to_an_old_state_has_no_end_less_log(
    tmp_path: Path, three: list, rows: list[ClipRow], arrays: dict, add_clips: Add
) -> None:
    path = tmp_path / "s"
    arrays[rows[1].clip_id] = {
        name: open_store(f"{path}@{three[1]}").read(name, [rows[1].clip_id])[0]
        for name in arrays[rows[1].clip_id]
    }
    assert add_clips(path, rows[1:2], arrays) == three[1] == read_head(path)
    assert [entry.hash for entry in log(path)] == [three[1], three[0], three[2]]
    assert read_version(path, open_store(path).recipe, three[2]).record.parent == three[1]
