"""Claims about removing what no version needs: that it goes, and that nothing else ever does."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores.derived import DerivedRow, write_derived
from stores.errors import StoreFault
from stores.garbage import gc
from stores.history import log, tag
from stores.index import ClipRow
from stores.journal import drop_entries, read_entries, write_entry
from stores.lock import write_lock
from stores.reading import Store
from stores.verify import verify_store
from stores.version import as_stored, list_versions, move_head, read_head
from stores.zarr_store import commit, head_clips, next_shard, open_store, write_shard

Add = Callable[..., str]
DIGEST = "0123456789abcdef"


def files(path: Path) -> dict[str, bytes]:
    every = [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in every}


def is_whole(path: Path, name: str) -> bool:
    return not verify_store(open_store(f"{path}@{name}")).damaged


def interrupt(path: Path, clips: list[ClipRow], arrays: dict) -> int:
    """An encode that finished a shard and was killed before it committed; the shard's number."""
    shard = next_shard(path)
    names = arrays[clips[0].clip_id]
    write_shard(path, shard, clips, {n: [arrays[c.clip_id][n] for c in clips] for n in names})
    return shard


def first_frames(store: Store, clip_ids: list[str]) -> Iterator[DerivedRow]:
    latent = store.recipe.clips.shape.latent()
    numbers = np.ones((latent.channels, *latent.hw), np.float16)
    for clip_id in clip_ids:
        yield clip_id, {"first_latent": numbers, "condition": np.stack([numbers] * latent.frames)}


@pytest.fixture
def left_behind(store_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Add) -> str:
    """Hash of a version with one clip more than HEAD and every tag know of."""
    head = read_head(store_path) or ""
    extra = replace(rows[0], clip_id="take_a-f000360")
    name = add_clips(store_path, [extra], {extra.clip_id: arrays[rows[0].clip_id]})
    move_head(store_path, read_head(store_path), head)
    return name


def test_a_store_that_was_only_added_to_has_nothing_to_remove(store_path: Path) -> None:
    before = files(store_path)
    report = gc(store_path, dry_run=False)
    assert (report.found, report.bytes, report.versions_kept) == ((), 0, 1)
    assert files(store_path) == before


def test_a_dry_run_tells_what_the_run_removes_and_removes_nothing(
    store_path: Path, left_behind: str
) -> None:
    before = files(store_path)
    planned = gc(store_path, dry_run=True, drop_versions=True)
    assert files(store_path) == before and not planned.removed
    done = gc(store_path, dry_run=False, drop_versions=True)
    assert done.removed and done.found == planned.found
    gone = before.keys() - files(store_path).keys()
    assert gone == {garbage.path for garbage in done.found}
    assert done.bytes == sum(len(before[name]) for name in gone) > 0
    assert not gc(store_path, dry_run=False, drop_versions=True).found


def test_a_version_off_the_path_stays_unless_it_is_to_be_dropped(
    store_path: Path, left_behind: str
) -> None:
    assert not gc(store_path, dry_run=False).found
    assert is_whole(store_path, left_behind)
    kinds = [garbage.kind for garbage in gc(store_path, dry_run=False, drop_versions=True).found]
    assert kinds == ["version", "manifest", *["shard"] * 4]
    assert list_versions(store_path) == [read_head(store_path)]
    assert is_whole(store_path, read_head(store_path) or "")


def test_a_tag_keeps_its_version_and_all_that_it_was_made_from(
    store_path: Path, left_behind: str
) -> None:
    tag(store_path, "paper-v1", left_behind)
    assert not gc(store_path, dry_run=False, drop_versions=True).found
    assert is_whole(store_path, "paper-v1")


def test_shards_of_a_commit_that_was_made_before_go(
    store_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Add
) -> None:
    head = read_head(store_path)
    assert add_clips(store_path, rows[:2], arrays) == head  # the version is there: rows are twice
    found = gc(store_path, dry_run=False).found
    assert [garbage.kind for garbage in found] == ["shard"] * 4
    assert is_whole(store_path, head or "")


def test_an_interrupted_encode_keeps_its_shards_unless_told(
    store_path: Path, rows: list[ClipRow], arrays: dict
) -> None:
    interrupt(store_path, rows[:2], arrays)
    report = gc(store_path, dry_run=False)
    assert not report.found and report.unfinished_bytes > 0
    assert len(list((store_path / "journal").iterdir())) == 1
    dropped = gc(store_path, dry_run=False, drop_unfinished=True)
    assert [garbage.kind for garbage in dropped.found] == ["journal", *["shard"] * 4]
    assert dropped.unfinished_bytes == 0
    assert sum(g.bytes for g in dropped.found if g.kind == "shard") == report.unfinished_bytes
    assert is_whole(store_path, read_head(store_path) or "")


def test_a_note_of_a_shard_that_lost_a_file_goes_with_the_rest_of_it(
    store_path: Path, rows: list[ClipRow], arrays: dict
) -> None:
    shard = interrupt(store_path, rows[:2], arrays)
    next(
        (store_path / "arrays" / "ego_rays" / "c" / str(shard)).rglob("0")
    ).rmdir if False else None
    lost = next(f for f in (store_path / f"arrays/ego_rays/c/{shard}").rglob("*") if f.is_file())
    lost.unlink()
    found = gc(store_path, dry_run=False).found
    assert [garbage.kind for garbage in found] == ["journal", *["shard"] * 3]


def test_a_note_of_a_shard_that_head_names_goes_alone(
    store_path: Path, rows: list[ClipRow], arrays: dict
) -> None:
    interrupt(store_path, rows[:2], arrays)
    (note,) = read_entries(store_path / "journal")
    drop_entries(store_path / "journal")
    write_entry(store_path / "journal", replace(note, shard=0))
    kinds = {garbage.kind for garbage in gc(store_path, dry_run=False).found}
    assert kinds == {"journal", "shard"}
    assert is_whole(store_path, read_head(store_path) or "")


def test_what_killed_writers_left_goes(store_path: Path) -> None:
    for name in ("HEAD.7-7.partial", "arrays/ego_rays/c/9/0/0.1-2.partial", "versions/x.partial"):
        (store_path / name).parent.mkdir(parents=True, exist_ok=True)
        (store_path / name).write_bytes(b"half")
    (store_path / "versions" / f"{'0' * 64}.parquet").write_bytes(b"a manifest without a record")
    found = gc(store_path, dry_run=False).found
    assert [garbage.kind for garbage in found] == ["partial"] * 3 + ["manifest"]
    assert not list(store_path.rglob("*.partial"))


def test_files_that_are_not_ours_stay(store_path: Path) -> None:
    for name in ("notes.txt", "arrays/ego_rays/c/readme", "arrays/mine/c/0", "derived/x/y"):
        (store_path / name).parent.mkdir(parents=True, exist_ok=True)
        (store_path / name).write_text("mine")
    before = files(store_path)
    assert not gc(store_path, dry_run=False, drop_versions=True, drop_unfinished=True).found
    assert files(store_path) == before


def test_derived_arrays_stay_while_one_of_their_rows_fits_a_version(
    store_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Add
) -> None:
    store = open_store(store_path)
    write_derived(store, "first_frames", DIGEST, first_frames(store, store.clip_ids[:2]), {})
    changed = [row for row in rows if row.clip_id in store.clip_ids[:2]]
    for row in changed:
        arrays[row.clip_id]["exo_latents"] += 1
    add_clips(store_path, changed, arrays)
    assert not gc(store_path, dry_run=False, drop_versions=True).found
    assert open_store(f"{store_path}@{store.hash}").derived("first_frames").clip_ids


def test_derived_arrays_of_a_version_that_is_dropped_go_with_it(
    store_path: Path, left_behind: str
) -> None:
    store = open_store(f"{store_path}@{left_behind}")
    only = [clip for clip in store.clip_ids if clip not in open_store(store_path).clip_ids]
    folder = write_derived(store, "first_frames", DIGEST, first_frames(store, only), {})
    assert not gc(store_path, dry_run=False).found and folder.exists()
    found = gc(store_path, dry_run=False, drop_versions=True).found
    assert [garbage.kind for garbage in found][-1] == "derived"
    assert not list((store_path / "derived").iterdir())


@pytest.mark.parametrize("held", ["", "derived/first_frames-" + DIGEST])
def test_nothing_is_removed_while_somebody_writes(
    store_path: Path, left_behind: str, held: str
) -> None:
    store = open_store(store_path)
    write_derived(store, "first_frames", DIGEST, first_frames(store, store.clip_ids), {})
    before = files(store_path)
    with write_lock(store_path / held), pytest.raises(StoreFault, match="Somebody else"):
        gc(store_path, dry_run=False, drop_versions=True)
    assert files(store_path) == before


@pytest.mark.parametrize("lost", ["HEAD", "tag", "manifest", "record of a parent", "no HEAD"])
def test_nothing_is_removed_from_a_store_that_lost_a_version(
    store_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Add, lost: str
) -> None:
    first = read_head(store_path) or ""
    arrays[rows[0].clip_id]["ego_rays"] += 1
    second = add_clips(store_path, rows[:1], arrays)
    tag(store_path, "now", second)
    if lost == "no HEAD":
        (store_path / "HEAD").unlink()
    elif lost == "tag":
        (store_path / "tags.json").write_bytes(orjson.dumps({"now": "0" * 64}))
    else:
        named = first if lost == "record of a parent" else second
        ending = "parquet" if lost == "manifest" else "json"
        (store_path / "versions" / f"{named}.{ending}").unlink()
    before = files(store_path)
    with pytest.raises(StoreFault, match=r"altered|lost|no HEAD"):
        gc(store_path, dry_run=False, drop_versions=True)
    assert files(store_path) == before


@pytest.mark.parametrize("number", range(6))
def test_a_kill_at_any_file_leaves_whole_versions_and_the_rest_goes_later(
    store_path: Path, left_behind: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_at(number, KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        gc(store_path, dry_run=False, drop_versions=True)
    assert all(is_whole(store_path, name) for name in list_versions(store_path))
    gc(store_path, dry_run=False, drop_versions=True)
    assert len(list_versions(store_path)) == 1
    assert len(list((store_path / "versions").iterdir())) == 2
    assert len([name for name in files(store_path / "arrays") if "/c/" in name]) == 3 * 4 + 2


def test_a_file_that_cannot_be_removed_is_told(
    store_path: Path, left_behind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(3, PermissionError(13, "Permission denied", "that/file"), monkeypatch)
    with pytest.raises(StoreFault, match="Not all of it") as told:
        gc(store_path, dry_run=False, drop_versions=True)
    assert (told.value.where, told.value.got) == ("that/file", "Permission denied")


def fail_at(number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the removal of one file fail: the `number`-th from now on."""
    unlink, calls = Path.unlink, iter(range(100))

    def failing(path: Path, missing_ok: bool = False) -> None:
        if next(calls) == number:
            raise error
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", failing)


def test_a_damaged_journal_is_told(store_path: Path) -> None:
    (store_path / "journal").mkdir(exist_ok=True)
    (store_path / "journal" / "000009.json").write_text('{"shard": 9')
    with pytest.raises(StoreFault, match="interrupted encode"):
        gc(store_path, dry_run=False)


def test_what_is_no_store_is_told_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreFault, match="settings"):
        gc(tmp_path / "nothing", dry_run=False)
    assert not (tmp_path / "nothing").exists()


def test_an_encode_after_gc_never_writes_where_a_version_reads(
    store_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Add, left_behind: str
) -> None:
    first = read_head(store_path) or ""
    gc(store_path, dry_run=False, drop_versions=True)
    arrays[rows[0].clip_id]["ego_rays"] += 1
    second = add_clips(store_path, rows[:1], arrays)
    assert is_whole(store_path, first) and is_whole(store_path, second)


STEPS = ("add", "change", "relabel", "go back", "tag", "interrupt", "derive", "collect", "drop")


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=2, max_size=7), seed=st.integers(0, 2**16))
def test_gc_never_takes_what_a_version_needs(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[ClipRow],
    arrays: dict,
    add_clips: Add,
    steps: list[str],
    seed: int,
) -> None:
    path, draw = tmp_path_factory.mktemp("history") / "s", random.Random(seed)
    numbers = {clip_id: dict(of_clip) for clip_id, of_clip in arrays.items()}
    add_clips(path, rows[:2], numbers)
    for step in steps:
        take_step(path, step, rows, numbers, add_clips, draw)
    before = list_versions(path)
    gc(path, dry_run=False)
    assert list_versions(path) == before
    assert all(is_whole(path, name) for name in before)
    kept = {e.hash for named in ("", *tags_of(path)) for e in log(f"{path}@{named}") if e.on_path}
    gc(path, dry_run=False, drop_versions=True, drop_unfinished=True)
    assert set(list_versions(path)) == kept
    assert all(is_whole(path, name) for name in kept)
    assert not gc(path, dry_run=True, drop_versions=True, drop_unfinished=True).found


def tags_of(path: Path) -> list[str]:
    return [name for entry in log(path) for name in entry.tags]


def take_step(
    path: Path, step: str, rows: list[ClipRow], arrays: dict, add_clips: Add, draw: random.Random
) -> None:
    """One thing that may happen to a store, by the real writer."""
    some = draw.sample([row for row in rows if row.split == "train"], draw.randint(1, 3))
    if step == "change":
        for row in some:
            array = draw.choice(["ego_rays", "exo_latents"])
            arrays[row.clip_id][array] = arrays[row.clip_id][array] + draw.choice([-1, 1])
    if step in ("add", "change"):
        add_clips(path, some, arrays)
    elif step == "relabel":
        old = draw.choice(head_clips(path))
        new = as_stored(replace(old, split=draw.choice(["train", "val"])), old.rows, old.digests)
        commit(path, [new], command="relabel", index_digest="dd")
    elif step == "go back":
        move_head(path, read_head(path), draw.choice(list_versions(path)))
    elif step == "tag":
        tag(path, f"tag-{draw.randrange(10**6)}", draw.choice(list_versions(path)))
    elif step == "interrupt":
        interrupt(path, some, arrays)
    elif step == "derive":
        store = open_store(path)
        made = first_frames(store, store.clip_ids[:2])
        write_derived(store, "first_frames", f"{draw.randrange(16**8):08x}", made, {})
    else:
        gc(path, dry_run=False, drop_versions=step == "drop")
