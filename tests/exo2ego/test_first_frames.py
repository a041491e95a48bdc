"""Cached first frames of every source: what they are, that they resume, what they refuse."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from exo2ego.model.condition import ConditionSettings, condition_latents
from exo2ego.model.vae import load_codec
from exo2ego.training.checkpoint import CheckpointFault, find_checkpoint, read_state
from exo2ego.training.experiment import AlignExperiment
from exo2ego.training.first_frame_sources import (
    FirstFrameFault,
    Predicted,
    frame_maker,
    frame_source,
    predict_first_latent,
)
from exo2ego.training.first_frames import (
    FIRST_FRAMES,
    encode_first_frames,
    open_first_frames,
    store_codec,
)
from exo2ego.training.stages import load_model
from stores.errors import StoreFault
from stores.progress import Track
from stores.reading import Store
from stores.zarr_store import open_store


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
    own_store: Store,
    framed_store: Store,
    align_run: Path,
    stops_after: Callable[[int], Track],
):
    with pytest.raises(KeyboardInterrupt):
        encode_first_frames(own_store, Predicted(align_run), vae_spec="tiny", track=stops_after(6))
    report = encode_first_frames(own_store, Predicted(align_run), vae_spec="tiny")
    assert (report.clips, report.clips_new) == (9, 5)  # one whole shard of four was done
    again = encode_first_frames(own_store, Predicted(align_run), vae_spec="tiny")
    assert (again.clips_new, again.digest) == (0, report.digest)
    for array in ("first_latent", "condition"):
        whole = framed_store.derived(FIRST_FRAMES).read(array, own_store.clip_ids)
        assert (own_store.derived(FIRST_FRAMES).read(array, own_store.clip_ids) == whole).all()


def test_the_digest_names_weights_and_fill(own_store: Store, align_run: Path):
    grey = encode_first_frames(own_store, Predicted(align_run), vae_spec="tiny", fill="grey")
    zeros = encode_first_frames(own_store, Predicted(align_run), vae_spec="tiny", fill="zeros")
    assert grey.digest != zeros.digest
    provenance = own_store.derived(FIRST_FRAMES, grey.digest).provenance
    weights = read_state(find_checkpoint(align_run)).weights_digest
    assert (provenance["align"], provenance["fill"]) == (weights, "grey")
    for digest in (None, grey.digest[:9]):
        found = open_first_frames(own_store, digest, ConditionSettings(fill="grey"))
        assert found.digest == grey.digest
    with pytest.raises(StoreFault, match="--first-frames"):
        open_first_frames(own_store, zeros.digest, ConditionSettings(fill="grey"))


def test_another_fill_than_the_experiments_is_refused(framed_store: Store):
    with pytest.raises(StoreFault, match=r"(?s)condition\.fill = zeros.*--align RUN --fill zeros"):
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
        encode_first_frames(framed_store, Predicted(runs["multiexocon"]), vae_spec="tiny")


def test_an_align_of_another_store_is_refused_unless_allowed(
    make_store: Callable[..., Path], clip_rows: list, align_run: Path
):
    other = open_store(make_store(clip_rows, seed=5))
    with pytest.raises(CheckpointFault, match="--allow-other-store"):
        encode_first_frames(other, Predicted(align_run), vae_spec="tiny")
    report = encode_first_frames(other, Predicted(align_run, True), vae_spec="tiny")
    assert report.clips == 9


@pytest.mark.parametrize("fill", ["decode", "grey"])
@pytest.mark.parametrize("name", ["ground-truth", "exo", "none"])
def test_other_sources_need_no_model_and_are_told_apart(
    own_store: Store, align_run: Path, name: str, fill: Literal["decode", "grey"]
):
    maker = frame_maker(frame_source(name, 2), None)
    report = encode_first_frames(own_store, maker, vae_spec="tiny", fill=fill)
    encode_first_frames(own_store, Predicted(align_run), vae_spec="tiny", fill=fill)
    wanted = ConditionSettings(source=maker.source, fill=fill)
    derived = open_first_frames(own_store, None, wanted)
    assert (derived.digest, report.clips, report.clips_without) == (report.digest, 9, 0)
    clip_id, codec = own_store.clip_ids[3], load_codec("tiny")
    first = {
        "ground-truth": own_store.read("ego_latents", [clip_id])[:, 0],
        "exo": own_store.read("exo_latents", [clip_id])[:, 0, 2],
    }
    expected = (
        codec.encode(torch.zeros(1, 3, 5, 32, 48))
        if name == "none"
        else condition_latents(codec, torch.from_numpy(first[name]).float(), 5, fill)
    )
    stored = torch.from_numpy(derived.read("condition", [clip_id])[0])
    assert torch.equal(stored, expected[0].half().transpose(0, 1))


def test_clips_without_ego_video_or_view_are_counted_and_left_out(
    make_store: Callable[..., Path], clip_rows: list
):
    rows = list(clip_rows)
    rows[0] = replace(rows[0], ego=replace(rows[0].ego, video=""))
    store = open_store(make_store(rows))
    report = encode_first_frames(
        store, frame_maker(frame_source("ground-truth", 0), None), vae_spec="tiny"
    )
    assert (report.clips, report.clips_without) == (8, 1)


def test_an_align_run_is_given_if_and_only_if_it_is_asked(align_run: Path):
    with pytest.raises(FirstFrameFault, match="--align RUN with --from align"):
        frame_maker(frame_source("align", 0), None)
    with pytest.raises(FirstFrameFault, match="--from none"):
        frame_maker(frame_source("none", 0), align_run)
