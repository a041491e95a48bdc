"""Align's cached predictions: what they are, that they resume, and what they refuse."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from exo2ego.model.condition import ConditionSettings, condition_latents
from exo2ego.model.vae import load_codec
from exo2ego.training.checkpoint import CheckpointFault, find_checkpoint, read_state
from exo2ego.training.experiment import AlignExperiment
from exo2ego.training.first_frames import (
    FIRST_FRAMES,
    encode_first_frames,
    open_first_frames,
    predict_first_latent,
    store_codec,
)
from exo2ego.training.stages import load_model
from stores.errors import StoreFault
from stores.progress import Item
from stores.reading import Store
from stores.zarr_store import open_store


@pytest.fixture
def own_store(store_path: Path, tmp_path: Path) -> Store:
    """A copy of the small store, to be written to."""
    shutil.copytree(store_path, tmp_path / "own.store")
    return open_store(tmp_path / "own.store")


def test_every_clip_gets_aligns_prediction_and_the_condition_made_of_it(
    framed_store: Store, align_run: Path, tiny_experiment: Callable[..., AlignExperiment]
):
    experiment = tiny_experiment("align")
    derived = framed_store.derived(FIRST_FRAMES)
    assert derived.clip_ids == framed_store.clip_ids
    model = load_model(find_checkpoint(align_run), wan_spec=None, device="cpu")
    for clip_id in framed_store.clip_ids[::4]:
        latent = predict_first_latent(framed_store, [clip_id], model, experiment, "cpu")
        condition = condition_latents(load_codec("tiny"), latent, 5, "decode")
        stored = torch.from_numpy(derived.read("first_latent", [clip_id]))
        assert torch.equal(stored, latent.half())
        stored = torch.from_numpy(derived.read("condition", [clip_id])[0])
        assert torch.equal(stored, condition[0].half().transpose(0, 1))


def test_an_interrupted_call_goes_on_and_ends_the_same(
    own_store: Store, framed_store: Store, align_run: Path
):
    def stop_after_six(
        items: Iterable[Item], /, *, total: int, what: str, unit: str
    ) -> Iterator[Item]:
        for number, item in enumerate(items):
            if number == 6:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        encode_first_frames(own_store, align_run, vae_spec="tiny", track=stop_after_six)
    report = encode_first_frames(own_store, align_run, vae_spec="tiny")
    assert (report.clips, report.clips_new) == (9, 5)  # one whole shard of four was done
    again = encode_first_frames(own_store, align_run, vae_spec="tiny")
    assert (again.clips_new, again.digest) == (0, report.digest)
    for array in ("first_latent", "condition"):
        whole = framed_store.derived(FIRST_FRAMES).read(array, own_store.clip_ids)
        assert (own_store.derived(FIRST_FRAMES).read(array, own_store.clip_ids) == whole).all()


def test_the_digest_names_weights_and_fill(own_store: Store, align_run: Path):
    grey = encode_first_frames(own_store, align_run, vae_spec="tiny", fill="grey")
    zeros = encode_first_frames(own_store, align_run, vae_spec="tiny", fill="zeros")
    assert grey.digest != zeros.digest
    provenance = own_store.derived(FIRST_FRAMES, grey.digest).provenance
    weights = read_state(find_checkpoint(align_run)).weights_digest
    assert (provenance["align"], provenance["fill"]) == (weights, "grey")
    with pytest.raises(StoreFault, match="--first-frames"):
        open_first_frames(own_store, None, ConditionSettings(fill="grey"))
    found = open_first_frames(own_store, grey.digest[:9], ConditionSettings(fill="grey"))
    assert found.digest == grey.digest


def test_another_fill_than_the_experiments_is_refused(framed_store: Store):
    with pytest.raises(StoreFault, match=r"condition\.fill = zeros"):
        open_first_frames(framed_store, None, ConditionSettings(fill="zeros"))


def test_another_vae_than_the_stores_is_refused(store: Store, tmp_path: Path):
    other = load_codec("tiny").vae
    with torch.no_grad():
        other.decoder.conv_out.bias += 1
    other.save_pretrained(tmp_path / "vae")
    with pytest.raises(StoreFault, match="encode-latents"):
        store_codec(store, str(tmp_path / "vae"), "cpu")


def test_a_run_of_another_stage_is_refused(framed_store: Store, runs: dict[str, Path]):
    with pytest.raises(CheckpointFault, match="one of stage multiexocon"):
        encode_first_frames(framed_store, runs["multiexocon"], vae_spec="tiny")


def test_an_align_of_another_store_is_refused_unless_allowed(
    make_store: Callable[..., Path], clip_rows: list, align_run: Path
):
    other = open_store(make_store(clip_rows, seed=5))
    with pytest.raises(CheckpointFault, match="--allow-other-store"):
        encode_first_frames(other, align_run, vae_spec="tiny")
    report = encode_first_frames(other, align_run, vae_spec="tiny", allow_other_store=True)
    assert report.clips == 9
