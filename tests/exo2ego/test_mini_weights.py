"""The miniature weights of the package: loaded as the real ones are, small, and described."""

import pytest
import torch
from einops import repeat

from exo2ego.evaluation.metrics import psnr
from exo2ego.model.condition import condition_latents, with_mask
from exo2ego.model.flow import noisy_latents, timestep_of
from exo2ego.model.pretrained import given_path
from exo2ego.model.vae import LatentCodec, frames_from_video, load_codec, video_from_frames
from exo2ego.model.wan import load_with_text, wan_velocity
from pipeline.clip_frames import FrameRequest, decode_clips
from pipeline.ingest import ingest
from pipeline.simulate.root import simulate_root
from stores.index import read_index
from stores.recipe import ClipRecipe

MOST_MEGABYTES = 40
SIDE = 64


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """Five cameras' clip of a take of another world than the weights have seen: "v 3 T H W"."""
    folder = tmp_path_factory.mktemp("unseen")
    simulate_root(folder / "root", takes=1, seconds=1.4, seed=404, height=128, samples=2)
    recipe = ClipRecipe(frames=9, stride=4, hw=(SIDE, SIDE), window_step=12)
    ingest(folder / "root", folder / "clips.parquet", recipe=recipe)
    row = read_index(folder / "clips.parquet").rows[0]
    views = [None, *range(len(row.present))]
    cameras = [row.ego, *row.present]
    requests = [
        FrameRequest(number, view, camera, row.frames)
        for number, (view, camera) in enumerate(zip(views, cameras, strict=True))
    ]
    found = {}
    for request, frames in decode_clips(folder / "root", recipe, requests):
        assert isinstance(frames, torch.Tensor)
        found[request.position] = frames
    return video_from_frames(torch.stack([found[number] for number in range(len(found))]))


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return load_codec("mini")


def test_both_are_small_and_have_a_card_each():
    folder = given_path("mini")
    files = [path for path in folder.rglob("*") if path.is_file()]
    base = [path for path in files if path.parent.name in ("vae", "transformer_2")]
    assert sum(path.stat().st_size for path in base) < MOST_MEGABYTES * 1e6
    for part in ("vae", "transformer_2"):
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


def test_the_foundation_model_sees_through_noise_better_than_the_mean_can(
    codec: LatentCodec, videos: torch.Tensor
):
    """At half noise, given each video's first frame and no words: error of the latents."""
    wan = load_with_text("mini").eval()
    latents = torch.cat([codec.encode(video[None]) for video in videos])
    condition = condition_latents(codec, latents[:, :, 0], videos.shape[2], "decode")
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((len(latents),), 0.5)
    channels = torch.cat([noisy_latents(latents, noise, sigma), with_mask(condition)], dim=1)
    words = torch.zeros(len(latents), 1, wan.config["text_dim"])
    with torch.no_grad():
        velocity = wan_velocity(wan, channels, timestep_of(sigma), words)
    told = noisy_latents(latents, noise, sigma) - 0.5 * velocity
    frozen = repeat(latents[:, :, 0], "b c h w -> b c t h w", t=latents.shape[2])
    errors = [float((guess - latents).square().mean()) for guess in (told, frozen)]
    assert errors[0] < 0.5 * min(errors[1], float(latents.var()))


def test_the_first_frame_decides_where_the_foundation_model_looks(
    codec: LatentCodec, videos: torch.Tensor
):
    """Swapping the condition between two cameras changes what is seen through the noise."""
    wan = load_with_text("mini").eval()
    latents = torch.cat([codec.encode(video[None]) for video in videos[:2]])
    condition = condition_latents(codec, latents[:, :, 0], videos.shape[2], "decode")
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    words = torch.zeros(2, 1, wan.config["text_dim"])

    def seen(of: torch.Tensor) -> torch.Tensor:
        channels = torch.cat([noise, with_mask(of)], dim=1)
        with torch.no_grad():
            return noise - wan_velocity(wan, channels, torch.full((2,), 1000.0), words)

    own, other = seen(condition), seen(condition.flip(0))
    of_own = (own - latents).square().mean(dim=(1, 2, 3, 4))
    of_other = (other - latents).square().mean(dim=(1, 2, 3, 4))
    assert (of_own < 0.7 * of_other).all()
