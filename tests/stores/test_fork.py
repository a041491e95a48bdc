"""Claims about forks: empty, of the recipe that was asked for, and honest about their origin."""

from pathlib import Path
from typing import Any

import pytest

from stores.errors import ShapeFault, StoreFault
from stores.fork import fork, read_origin
from stores.history import tag
from stores.recipe import ClipRecipe
from stores.settings import read_settings
from stores.version import StoreRecipe, read_head
from stores.zarr_store import commit, create_store, open_store


def test_a_fork_is_an_empty_store_of_the_changed_recipe(store_path: Path, tmp_path: Path) -> None:
    new = tmp_path / "fork"
    report = fork(store_path, new, {"clips.ego_lens": "fisheye"})
    recipe = read_settings(new).recipe
    assert report.recipe == {"clips.ego_lens": ("pinhole", "fisheye")}
    assert recipe.clips.ego_lens == "fisheye" and recipe.vae == open_store(store_path).recipe.vae
    with pytest.raises(StoreFault, match="no clips yet"):
        open_store(new)


def test_a_fork_knows_where_it_comes_from(store_path: Path, tmp_path: Path) -> None:
    head = read_head(store_path)
    tag(store_path, "paper-v1")
    assert fork(f"{store_path}@paper-v1", tmp_path / "fork", {"clips.stride": 2}).origin == head
    origin = read_origin(tmp_path / "fork")
    assert origin is not None and origin.store == head
    assert origin.recipe_digest == open_store(store_path).recipe.digest
    assert read_origin(store_path) is None


def test_an_encode_of_the_changed_recipe_finds_its_store(
    store_path: Path, tmp_path: Path, recipe: StoreRecipe
) -> None:
    fork(store_path, tmp_path / "fork", {"clips.stride": 2})
    listed = ClipRecipe(frames=5, views=2, hw=(32, 48), stride=2)
    asked = recipe.model_copy(update={"clips": listed})
    assert create_store(tmp_path / "fork", asked).recipe == asked


def test_fields_that_followed_follow_and_those_that_were_set_stay(
    tmp_path: Path, recipe: StoreRecipe
) -> None:
    clips = ClipRecipe(frames=5, views=2, hw=(32, 48), window_step=7)
    create_store(tmp_path / "s", recipe.model_copy(update={"clips": clips}))
    commit(tmp_path / "s", [], command="test", index_digest="cc")
    found = fork(tmp_path / "s", tmp_path / "fork", {"clips.stride": 2, "clips.views": 3}).recipe
    assert found == {
        "clips.stride": (4, 2),
        "clips.views": (2, 3),
        "clips.min_views": (2, 3),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clips.stride": 4},
        {"clips.strides": 2},
        {"dtype": "float32"},
        {"rays": "other"},
        {"clips.stride": 0},
        {"clips.min_views": 9},
    ],
    ids=str,
)
def test_changes_that_will_not_do_are_refused_and_nothing_is_made(
    store_path: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(StoreFault, match="cannot be forked"):
        fork(store_path, tmp_path / "fork", changes)
    assert not (tmp_path / "fork").exists()


def test_a_size_that_no_vae_takes_is_refused(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ShapeFault):
        fork(store_path, tmp_path / "fork", {"clips.hw": (30, 48)})


def test_a_store_with_clips_is_not_forked_over(store_path: Path) -> None:
    before = (store_path / "store.json").read_bytes()
    with pytest.raises(StoreFault, match="clips already"):
        fork(store_path, store_path, {"clips.stride": 2})
    assert (store_path / "store.json").read_bytes() == before


def test_a_fork_that_was_killed_can_be_made_again(store_path: Path, tmp_path: Path) -> None:
    fork(store_path, tmp_path / "fork", {"clips.stride": 2})
    (tmp_path / "fork" / "origin.json").unlink()
    fork(store_path, tmp_path / "fork", {"clips.stride": 2})
    assert read_origin(tmp_path / "fork") is not None
    with pytest.raises(StoreFault, match="another recipe"):
        fork(store_path, tmp_path / "fork", {"clips.stride": 3})
