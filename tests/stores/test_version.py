"""Claims about what a store is called, and about versions that never change."""

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from stores.errors import StoreFault
from stores.index import ClipRow
from stores.resolve import resolve
from stores.settings import check_same_recipe, read_settings
from stores.store_hash import store_hash
from stores.version import StoreRecipe, list_versions, read_head
from stores.zarr_store import head_clips, open_store

CLIPS = [("b", {"x": "02", "y": ""}), ("a", {"x": "01", "y": "03"})]


def test_the_hash_does_not_depend_on_order(recipe: StoreRecipe) -> None:
    turned = [(clip_id, dict(reversed(digests.items()))) for clip_id, digests in CLIPS[::-1]]
    assert store_hash(recipe, CLIPS) == store_hash(recipe, turned)


@pytest.mark.parametrize(
    "other",
    [
        CLIPS[:1],
        [("b", {"x": "04", "y": ""}), CLIPS[1]],
        [("c", CLIPS[0][1]), CLIPS[1]],
        [("b", {"x": "02", "y": "05"}), CLIPS[1]],
    ],
    ids=["a clip less", "a row's digest", "a clip's id", "an array more"],
)
def test_the_hash_changes_with(recipe: StoreRecipe, other: list[tuple[str, dict]]) -> None:
    assert store_hash(recipe, CLIPS) != store_hash(recipe, other)


def test_the_hash_changes_with_the_recipe(recipe: StoreRecipe) -> None:
    clips = recipe.clips.model_copy(update={"stride": 2})
    other = recipe.model_copy(update={"clips": clips})
    assert store_hash(recipe, CLIPS) != store_hash(other, CLIPS)
    assert recipe.digest != other.digest


def test_clips_come_back_from_the_manifest_as_they_were(
    store_path: Path, rows: list[ClipRow]
) -> None:
    stored = head_clips(store_path)
    assert [clip.clip_id for clip in stored] == sorted(row.clip_id for row in rows)
    for clip, row in zip(stored, sorted(rows, key=lambda row: row.clip_id), strict=True):
        assert (clip.frames, clip.sets, clip.split) == (row.frames, row.sets, row.split)
        assert (clip.ego.world_from_cam == row.ego.world_from_cam).all()
        assert clip.exos[1].params == row.exos[1].params


def test_a_unique_prefix_names_a_version(store_path: Path) -> None:
    name = read_head(store_path) or ""
    assert resolve(store_path) == (store_path, name)
    assert resolve(f"{store_path}@{name[:4]}") == (store_path, name)


def test_an_unknown_prefix_is_told_with_those_that_exist(store_path: Path) -> None:
    name = read_head(store_path) or ""
    with pytest.raises(StoreFault, match=name[:12]):
        resolve(f"{store_path}@zz")


def test_an_ambiguous_prefix_is_told(store_path: Path) -> None:
    name = read_head(store_path) or ""
    (store_path / "versions" / f"{name[:6]}-twin.json").write_text("{}")
    with pytest.raises(StoreFault, match="Which version"):
        resolve(f"{store_path}@{name[:4]}")


def test_an_at_sign_in_a_folder_name_is_no_version(store_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "me@home.store"
    store_path.rename(other)
    assert open_store(other).hash == read_head(other)


@pytest.mark.parametrize("place", ["nothing.store", ""], ids=["no folder", "another folder"])
def test_what_is_no_store_is_told(tmp_path: Path, place: str) -> None:
    with pytest.raises(StoreFault, match="not a store"):
        resolve(tmp_path / place)


def test_a_store_without_a_commit_is_told(store_path: Path) -> None:
    (store_path / "HEAD").unlink()
    with pytest.raises(StoreFault, match="no clips yet"):
        open_store(store_path)


@pytest.mark.parametrize("ending", ["parquet", "json"])
def test_a_manifest_edited_by_hand_is_refused(store_path: Path, ending: str) -> None:
    (path,) = (store_path / "versions").glob(f"*.{ending}")
    data = path.read_bytes()
    edits = {"parquet": (b"take_a", b"take_c"), "json": (b'"manifest_digest": "', b'"x": "')}
    path.write_bytes(data.replace(*edits[ending], 1))
    assert path.read_bytes() != data
    with pytest.raises(StoreFault, match="altered"):
        open_store(store_path)


def test_a_manifest_under_another_name_is_refused(store_path: Path) -> None:
    name, other = read_head(store_path) or "", "0" * 64
    for ending in ("parquet", "json"):
        path = store_path / "versions" / f"{name}.{ending}"
        path.rename(path.with_stem(other))
    with pytest.raises(StoreFault, match=name[:12]):
        open_store(f"{store_path}@{other}")


def test_a_missing_manifest_is_told(store_path: Path) -> None:
    next((store_path / "versions").glob("*.parquet")).unlink()
    with pytest.raises(StoreFault, match="incomplete"):
        open_store(store_path)


@pytest.mark.parametrize("file", ["store.json", "versions/*.json"])
def test_a_newer_format_is_refused_and_says_upgrade(store_path: Path, file: str) -> None:
    (path,) = store_path.glob(file)
    plain = orjson.loads(path.read_bytes())
    path.write_bytes(orjson.dumps(plain | {"format": 2, "something_new": 1}))
    with pytest.raises(StoreFault, match="newer version") as fault:
        open_store(store_path)
    assert "Upgrade" in fault.value.fix


def test_a_recipe_edited_by_hand_is_refused(store_path: Path) -> None:
    path = store_path / "store.json"
    path.write_bytes(path.read_bytes().replace(b'"stride": 4', b'"stride": 2'))
    with pytest.raises(StoreFault, match="settings"):
        read_settings(store_path)


def test_another_recipe_is_refused_with_every_field_that_differs(recipe: StoreRecipe) -> None:
    clips = recipe.clips.model_copy(update={"stride": 2, "ego_lens": "fisheye"})
    with pytest.raises(StoreFault) as fault:
        check_same_recipe(Path("s"), recipe, recipe.model_copy(update={"clips": clips}))
    assert fault.value.expected == "clips.stride = 4, clips.ego_lens = pinhole"
    assert fault.value.got == "clips.stride = 2, clips.ego_lens = fisheye"


def test_a_new_version_leaves_its_parent_as_it_was(
    tmp_path: Path, rows: list[ClipRow], arrays: dict, add_clips: Callable
) -> None:
    path = tmp_path / "s"
    first = add_clips(path, rows[:4], arrays)
    files = {file: file.read_bytes() for file in (path / "versions").iterdir()}
    second = add_clips(path, rows[4:], arrays)
    assert {file: file.read_bytes() for file in files} == files
    assert set(list_versions(path)) == {first, second}
    assert open_store(path).version.record.parent == first
    old = open_store(f"{path}@{first}")
    assert len(old.clip_ids) == 4
    row = rows[3].clip_id
    assert (old.read("ego_rays", [row])[0] == arrays[row]["ego_rays"]).all()
