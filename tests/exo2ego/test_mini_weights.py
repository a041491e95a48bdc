"""The miniature weights of the package: loaded as the real ones are, small, and described."""

import pytest
import torch

from benchmarks.mini.films import write_films
from exo2ego.evaluation.metrics import psnr
from exo2ego.model.pretrained import given_path
from exo2ego.model.vae import LatentCodec, frames_from_video, load_codec, video_from_frames
from pipeline.ingest import ingest
from pipeline.simulate.root import simulate_root
from stores.progress import silent
from stores.recipe import ClipRecipe

MOST_MEGABYTES = 40
PARTS = ("vae",)
SIDE = 64


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Five cameras' clip of a take of another world than the weights have seen: "v 3 T H W"."""
    folder = tmp_path_factory.mktemp("unseen")
    simulate_root(folder / "root", takes=1, seconds=1.4, seed=404, height=128, samples=2)
    recipe = ClipRecipe(frames=9, stride=4, hw=(SIDE, SIDE), window_step=12)
    ingest(folder / "root", folder / "clips.parquet", recipe=recipe)
    films = write_films(folder / "clips.parquet", folder, silent)
    return video_from_frames(torch.from_numpy(films.frames[0].copy()))


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return load_codec("mini")


def test_both_are_small_and_have_a_card_each():
    folder = given_path("mini")
    files = [path for path in folder.rglob("*") if path.is_file()]
    base = [path for path in files if path.parent.name in PARTS]
    assert sum(path.stat().st_size for path in base) < MOST_MEGABYTES * 1e6
    for part in PARTS:
        card = (folder / part / "README.md").read_text()
        for word in ("license", "data", "steps", "seed", "limits"):
            assert word in card.lower(), f"{part} says nothing of {word}"


def test_the_vae_gives_back_a_take_that_it_has_not_seen(codec: LatentCodec, videos: torch.Tensor):
    """Well above what the same frames are to a picture of their mean colour."""
    for video in videos:
        made = frames_from_video(codec.decode(codec.encode(video[None])))[0]
        truth = frames_from_video(video[None])[0]
        flat = truth.float().mean(dim=(0, 1, 2)).byte().expand_as(truth)
        assert float(psnr(made, truth).mean()) > float(psnr(flat, truth).mean()) + 8


def test_latents_are_normalised(codec: LatentCodec, videos: torch.Tensor):
    latents = torch.cat([codec.encode(video[None]) for video in videos])
    assert abs(float(latents.mean())) < 0.25
    assert float(latents.std()) == pytest.approx(1.0, abs=0.25)
