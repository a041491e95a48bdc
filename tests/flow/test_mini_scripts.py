"""The scripts that made the miniature weights still run, from a simulated world to loaded weights.

At a scale at which nothing is learned: what the weights are worth is in docs/mini.md.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.mini.__main__ import make_foundation, make_vae
from benchmarks.mini.films import write_films
from benchmarks.mini.foundation import prompt_of
from benchmarks.mini.loop import Schedule
from benchmarks.mini.optimiser import MuonAndAdam
from benchmarks.mini.vae import VaeTraining, halved, train_vae
from benchmarks.mini.words import MOST_WORDS, prompt_tokens
from exo2ego.model.vae import load_codec
from exo2ego.model.wan import load_wan
from pipeline.encode import encode_latents
from pipeline.ingest import ingest
from pipeline.simulate.root import simulate_root
from stores.progress import Track, silent
from stores.recipe import ClipRecipe
from stores.zarr_store import open_store

TAKES, SECONDS = 4, 0.6
SPLITS = ("train", "train", "val", "test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of a small world at 128x128 (films.parquet) and at 64x64 (clips.parquet)."""
    folder = tmp_path_factory.mktemp("mini")
    simulate_root(
        folder / "root", takes=TAKES, seconds=SECONDS, seed=1, height=96, samples=1, splits=SPLITS
    )
    for name, side in (("films", 128), ("clips", 64)):
        recipe = ClipRecipe(frames=9, stride=1, hw=(side, side), window_step=12)
        ingest(folder / "root", folder / f"{name}.parquet", recipe=recipe)
    return folder


def test_weights_are_made_loaded_and_scored_from_a_simulated_world(
    world: Path, capsys: pytest.CaptureFixture[str]
):
    work = world / "work"
    make_vae(world / "films.parquet", work, steps=2)
    said = capsys.readouterr().out
    assert "VaeScore(side=64, clips=1" in said and "VaeScore(side=128, clips=1" in said
    config = json.loads((work / "vae" / "config.json").read_text())
    assert len(set(config["latents_std"])) > 1
    codec = load_codec(str(work / "vae"))
    store_path = world / "mini.store"
    encode_latents(world / "clips.parquet", store_path, vae_spec=str(work / "vae"))
    make_foundation(world / "films.parquet", str(work / "vae"), work, steps=2)
    wan = load_wan(str(work))
    assert 10e6 < sum(parameter.numel() for parameter in wan.parameters()) < 14e6
    stored = open_store(store_path)
    latents = torch.from_numpy(stored.read("ego_latents", stored.select(split="train"))).float()
    assert latents.std() == pytest.approx(1.0, abs=0.3)
    assert codec.recipe() == stored.recipe.vae.model_dump()


def test_films_are_the_central_clips_and_are_written_once(world: Path, tmp_path: Path):
    films = write_films(world / "films.parquet", tmp_path, silent)
    assert films.frames.shape == (TAKES, 5, 9, 128, 128, 3)
    assert sorted(films.splits) == sorted(SPLITS)
    written = (tmp_path / "films.npy").stat().st_mtime_ns
    again = write_films(world / "films.parquet", tmp_path, silent)
    assert (tmp_path / "films.npy").stat().st_mtime_ns == written
    assert np.array_equal(again.frames, films.frames) and films.frames.std() > 10


def test_training_that_was_stopped_goes_on_as_if_it_had_not(
    world: Path,
    tmp_path: Path,
    stops_after: Callable[[int], Track],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("benchmarks.mini.loop.KEPT_EVERY", 2)
    films = write_films(world / "films.parquet", tmp_path, silent)
    whole, decoder = Schedule(4, lr=1e-3), Schedule(3, lr=1e-3, averaged=0.5)
    small = VaeTraining(frames=1, lengths=(1,), side=32, whole=whole, decoder=decoder)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    at_once = train_vae(films, tmp_path / "whole", small)
    with pytest.raises(KeyboardInterrupt):
        train_vae(films, tmp_path / "parts", small, stops_after(3))
    rest = train_vae(films, tmp_path / "parts", small)
    for name, value in at_once.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name


def test_muon_steps_a_kernel_as_the_matrix_that_it_is():
    kernel, matrix = nn.Conv2d(3, 8, 3), nn.Linear(27, 8)
    start = torch.randn(8, 27, generator=torch.Generator().manual_seed(0))
    for layer in (kernel, matrix):
        layer.load_state_dict({"weight": start.view(layer.weight.shape), "bias": torch.zeros(8)})
        layer.weight.grad = start.flip(0).view(layer.weight.shape).clone()
        MuonAndAdam(layer, 0.1).step(0.1)
        assert layer.weight.grad is None
    stepped = kernel.weight.detach().view(8, -1)
    assert torch.equal(stepped, matrix.weight.detach())
    # Muon's step has singular values near one, times 0.2 sqrt(27) and the learning rate
    values = torch.linalg.svdvals((start - stepped) / (0.1 * 0.2 * 27**0.5))
    assert float(values.min()) > 0.5 and float(values.max()) < 1.5


def test_words_are_the_same_wherever_they_stand_and_none_are_zeros():
    tokens = prompt_tokens([prompt_of("bike", is_ego=True), prompt_of("bike", is_ego=False), ""])
    assert tokens.shape[1] == MOST_WORDS and not tokens[2].any()
    assert torch.equal(tokens[0, 1:], tokens[1, 1:])
    assert not torch.equal(tokens[0, 0], tokens[1, 0])


def test_frames_of_half_the_side_are_means_of_four_pixels():
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    expected = sum(frames[:, i::2, j::2].astype(float) for i in range(2) for j in range(2)) / 4
    assert (np.abs(halved(frames) - expected) <= 0.5).all()
