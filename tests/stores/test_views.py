"""Claims about which exo views a batch shows: subsets, orders, dropout, and what stays as it is."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stores.errors import StoreFault
from stores.index import ClipRecipe, ClipRow
from stores.stream import ClipStream
from stores.version import StoreRecipe, VaeRecipe
from stores.views import ViewChoice, choose_views, shown_views, view_words
from stores.zarr_store import commit, create_store, open_store, stored_clips, write_shard

READS = ("exo_latents", "exo_latents[0]", "align_rays", "ego_rays", "ego_latents")
VIEWS = 3


@pytest.fixture
def three_views(tmp_path: Path, rows: list[ClipRow]) -> Path:
    """Four clips of three views, the last clip with its first two alone."""
    clips = ClipRecipe(frames=5, views=VIEWS, min_views=1, hw=(32, 48))
    vae = VaeRecipe(class_name="Vae", weights_digest="aa", config_digest="bb")
    path, some = tmp_path / "three.store", []
    for number, row in enumerate(rows[:4]):
        exo = row.exos[0]
        some.append(_with_exos(row, (exo, exo, None if number == 3 else exo)))
    create_store(path, StoreRecipe(clips=clips, vae=vae), clips_per_shard=4)
    arrays = {
        "exo_latents": [_numbered((2, VIEWS, 16, 4, 6), 1, row) for row in some],
        "align_rays": [_numbered((VIEWS, 6, 4, 6), 0, row) for row in some],
        "ego_rays": [np.full((5, 6, 32, 48), 7, np.float16) for _ in some],
        "ego_latents": [np.full((2, 16, 4, 6), 8, np.float16) for _ in some],
    }
    finished = write_shard(path, 0, some, arrays)
    new = stored_clips(finished, {row.clip_id: row for row in some}, 4)
    commit(path, new, command="test", index_digest="cc")
    return path


def _with_exos(row: ClipRow, exos: tuple) -> ClipRow:
    return ClipRow(**{**vars(row), "exos": exos})


def _numbered(shape: tuple[int, ...], axis: int, row: ClipRow) -> np.ndarray:
    """Each view full of its own number plus one; NaN where the clip has no such view."""
    numbers = np.array([1 + k if exo else np.nan for k, exo in enumerate(row.exos)], np.float16)
    where = [1] * len(shape)
    where[axis] = VIEWS
    return np.broadcast_to(numbers.reshape(where), shape).copy()


def stream(path: Path, choice: ViewChoice, **more) -> ClipStream:
    return ClipStream(open_store(path), READS, batch_size=2, seed=5, views=choice, **more)


def seen(batch, read: str, place: int) -> list[float]:
    """The number of every view of one clip."""
    return [view.flatten()[0].item() for view in batch[read][place]]


def test_a_subset_comes_in_the_order_asked_for_in_every_array(three_views: Path) -> None:
    batch = stream(three_views, ViewChoice(keep=(2, 0))).batch_of(["take_a-f000000"])
    assert batch.views == [(2, 0)]
    for read in ("exo_latents", "exo_latents[0]", "align_rays"):
        assert seen(batch, read, 0) == [3, 1], read


def test_what_has_no_views_is_untouched_by_any_choice(three_views: Path) -> None:
    whole = stream(three_views, ViewChoice())
    some = stream(three_views, ViewChoice(keep=(1,), dropout=0.5, permute=True))
    for step in range(4):
        for read in ("ego_rays", "ego_latents"):
            assert torch.equal(whole.batch_at(step)[read], some.batch_at(step)[read])


def test_a_permutation_shows_every_view_once_and_says_which(three_views: Path) -> None:
    choice, orders = ViewChoice(permute=True), set()
    for batch in islice(stream(three_views, choice), 20):
        for place, views in enumerate(batch.views):
            assert sorted(views) == list(range(VIEWS))
            orders.add(views)
            shown = [np.nan if np.isnan(n) else n - 1 for n in seen(batch, "align_rays", place)]
            has = [np.nan if np.isnan(n) else view for n, view in zip(shown, views, strict=True)]
            assert np.array_equal(shown, has, equal_nan=True)
    assert len(orders) > 3


def test_a_dropped_view_is_nan_in_every_array_and_one_that_is_there_stays(
    three_views: Path,
) -> None:
    dropped = 0
    for batch in islice(stream(three_views, ViewChoice(dropout=0.8)), 40):
        for place, views in enumerate(batch.views):
            rays, latents = seen(batch, "align_rays", place), seen(batch, "exo_latents", place)
            assert np.array_equal(rays, latents, equal_nan=True)
            assert not all(np.isnan(rays))
            assert all(np.isnan(rays[k]) for k, view in enumerate(views) if view < 0)
            dropped += sum(view < 0 for view in views)
    assert dropped > 100


def test_choices_are_the_same_on_any_number_of_processes_and_after_resuming(
    three_views: Path,
) -> None:
    choice = ViewChoice(permute=True, dropout=0.4)
    whole = ClipStream(open_store(three_views), READS, batch_size=4, seed=5, views=choice)
    parts = [stream(three_views, choice, rank=rank, world_size=2) for rank in range(2)]
    for step in range(6):
        views = [view for part in parts for view in part.batch_at(step).views]
        assert whole.batch_at(step).views == views
    state = whole.state_dict()
    next(whole)
    again = ClipStream(open_store(three_views), READS, batch_size=4, seed=5, views=choice)
    again.load_state_dict(state | {"step": 3})
    assert next(again).views == whole.batch_at(3).views


def test_a_subset_that_leaves_a_clip_without_views_is_refused(three_views: Path) -> None:
    with pytest.raises(StoreFault, match="cannot show these views") as fault:
        stream(three_views, ViewChoice(keep=(2,)))
    assert "take_a-f000108 has none of them" in fault.value.got
    with pytest.raises(StoreFault, match="cannot show these views"):
        stream(three_views, ViewChoice(keep=(0, 3)))


@pytest.mark.parametrize("wrong", [{"keep": ()}, {"keep": (1, 1)}, {"dropout": 1.0}])
def test_choices_without_a_meaning_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="view"):
        ViewChoice(**wrong)


@given(step=st.integers(0, 10**6), dropout=st.floats(0, 0.99), present=st.integers(1, 4))
def test_a_clip_always_keeps_one_of_the_views_that_it_has(
    step: int, dropout: float, present: int
) -> None:
    words = view_words("ab" * 32, 3, step, "clip", 4)
    views = shown_views(ViewChoice(dropout=dropout), views=4, present=present, words=words)
    assert any(0 <= view < present for view in views)


def test_each_view_is_dropped_as_often_as_asked() -> None:
    shown = [
        shown_views(
            ViewChoice(dropout=0.25),
            views=4,
            present=4,
            words=view_words("cd" * 32, 0, step, "clip", 4),
        )
        for step in range(4000)
    ]
    for view in range(4):
        share = np.mean([views[view] < 0 for views in shown])
        assert abs(share - 0.25) < 0.03  # four standard deviations


def test_bytes_of_a_view_left_out_are_black() -> None:
    rows = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5) + 1
    got = choose_views(rows, 1, [(2, -1, 0), (0, 1, 2)])
    assert (got[0] == [rows[0, 2], [0] * 5, rows[0, 0]]).all()
    assert (got[1] == rows[1]).all()
