"""Claims about the store hash: the quick way over a manifest gives what its definition gives."""

import string

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stores.store_hash as module
from stores.recipe import ClipRecipe
from stores.store_hash import digest_rows, store_hash, table_hash
from stores.version import StoreRecipe, VaeRecipe

RECIPE = StoreRecipe(
    clips=ClipRecipe(), vae=VaeRecipe(class_name="Vae é", weights_digest="aa", config_digest="bb")
)
ARRAYS = ("align_rays", "clip", "ego_latents", "zeta")
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
IDS = st.text(st.sampled_from(string.ascii_letters + "-_.{},é\U0001f600"), min_size=1, max_size=9)


@st.composite
def tables(draw: st.DrawFn, ids: st.SearchStrategy[str] = IDS) -> pa.Table:
    """Manifests of a few clips; arrays other than `clip` are there or not."""
    clip_ids = sorted(draw(st.sets(ids, max_size=7)))
    columns: dict[str, list[str]] = {"clip_id": clip_ids}
    for name in draw(st.permutations(ARRAYS)):
        some = HEX if name == "clip" else st.one_of(HEX, st.just(""))
        columns[f"digest_{name}"] = [draw(some) for _ in clip_ids]
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


@given(table=tables())
def test_a_manifests_hash_is_that_of_its_clips(table: pa.Table) -> None:
    assert table_hash(RECIPE, table) == store_hash(RECIPE, digest_rows(table))


@given(table=tables(st.text(min_size=1, max_size=5)))
def test_ids_that_json_writes_otherwise_have_the_same_hash_too(table: pa.Table) -> None:
    assert table_hash(RECIPE, table) == store_hash(RECIPE, digest_rows(table))


@given(table=tables(), data=st.data())
def test_an_order_that_is_not_that_of_ids_does_not_count(table: pa.Table, data: st.DataObject):
    order = data.draw(st.permutations(range(len(table))))
    turned = table.take(pa.array(order, pa.int64()))
    assert table_hash(RECIPE, turned) == table_hash(RECIPE, table)


@given(table=tables())
def test_pieces_of_the_text_join_without_a_seam(table: pa.Table) -> None:
    whole = table_hash(RECIPE, table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CLIPS_HASHED", 2)
        assert table_hash(RECIPE, table) == whole


def test_the_hash_is_that_of_every_earlier_release() -> None:
    clips = [("b", {"x": "02", "y": ""}), ("a", {"x": "01", "y": "03"})]
    found = store_hash(RECIPE, clips)
    assert found == "f72ae68f4067dc1dd71d50c55d8f818347aae076f255e5e44dba86ada43bb520"
