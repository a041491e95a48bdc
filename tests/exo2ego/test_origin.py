"""Samples know the experiments that made them: of the run, of its parents and of its Align."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.manifest import MANIFEST, read_manifest
from exo2ego.evaluation.origin import Origin
from exo2ego.evaluation.sample import sample
from exo2ego.model.flow import SamplerSettings
from exo2ego.training.experiment import Experiment
from exo2ego.training.first_frame_sources import Predicted
from exo2ego.training.first_frames import FIRST_FRAMES, encode_first_frames
from stores.reading import Store
from stores.zarr_store import open_store

ONE = ClipChoice(clip_ids=("cmu_bike02_3-f000000",))
SAMPLER = SamplerSettings(steps=1, guidance=1.0)


def origin_in(out: Path) -> Origin:
    return read_manifest(out).settings.origin or pytest.fail("no origin")


def test_poseinj_knows_its_parent_and_the_align_of_its_first_frames(
    framed_store: Store,
    runs: dict[str, Path],
    tiny_experiment: Callable[..., Experiment],
    tmp_path: Path,
):
    run, out = runs["poseinj"], tmp_path / "samples"
    sample(framed_store, run, out, vae_spec="tiny", sampler=SAMPLER, clips=ONE)
    origin = origin_in(out)
    found = [origin.run, *origin.parents, origin.align]
    stages = ["poseinj", "multiexocon", "align"]
    assert [one.experiment if one else None for one in found] == [
        tiny_experiment(stage).model_dump(mode="json") for stage in stages
    ]
    assert {one.store_hash for one in found if one} == {framed_store.hash}
    assert origin.wan and origin.wan.spec == "tiny"


def test_an_align_run_has_neither_wan_nor_first_frames(
    store: Store, align_run: Path, tmp_path: Path
):
    sample(store, align_run, tmp_path / "a", vae_spec="tiny", clips=ONE)
    origin = origin_in(tmp_path / "a")
    assert (origin.run.experiment["stage"], origin.wan, origin.align) == ("align", None, None)


def test_a_folder_that_does_not_know_its_origin_is_gone_on_with(
    framed_store: Store, runs: dict[str, Path], tmp_path: Path
):
    out, run = tmp_path / "samples", runs["multiexocon"]
    sample(framed_store, run, out, vae_spec="tiny", sampler=SAMPLER, clips=ONE)
    manifest = json.loads((out / MANIFEST).read_text())
    del manifest["settings"]["origin"]
    (out / MANIFEST).write_text(json.dumps(manifest))
    report = sample(framed_store, run, out, vae_spec="tiny", sampler=SAMPLER)
    assert (report.clips, report.clips_new) == (3, 2)


def test_first_frames_of_before_learn_their_align_when_they_are_encoded_again(
    framed_store: Store, align_run: Path, tmp_path: Path
):
    shutil.copytree(str(framed_store.path), tmp_path / "tiny.store")
    copy = open_store(tmp_path / "tiny.store")
    (about,) = (tmp_path / "tiny.store").rglob("derived.json")
    plain = json.loads(about.read_text())
    trained = plain["provenance"].pop("trained")
    about.write_text(json.dumps(plain))
    assert "trained" not in copy.derived(FIRST_FRAMES).provenance
    again = encode_first_frames(copy, Predicted(align_run), vae_spec="tiny")
    assert again.clips_new == 0
    assert copy.derived(FIRST_FRAMES).provenance["trained"] == trained
