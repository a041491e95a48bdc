"""What a generator reads of a clip: exchanging it changes the loss, by the same every time."""

from pathlib import Path

import pytest

from benchmarks.mini.reads import losses_of
from stores.reading import Store


@pytest.mark.parametrize("stage", ["multiexocon", "poseinj", "vawan"])
def test_the_loss_of_what_another_take_shows_is_another(
    stage: str, framed_store: Store, runs: dict[str, Path]
):
    found = losses_of(runs[stage], framed_store, "train")
    takes = {framed_store.row(clip).take_name for clip in framed_store.select(split="train")}
    assert found.clips == len(takes) > 1
    assert found.other_exo != found.as_it_is
    assert (found.other_rays is None) == (stage == "multiexocon")
    assert found.other_rays != found.as_it_is
    assert losses_of(runs[stage], framed_store, "train") == found
