"""The miniature weights of the package: loaded as the real ones are, small, and described."""

from pathlib import Path

import pytest
import torch

from benchmarks.mini.films import write_films
from benchmarks.mini.sheet import gone_on
from exo2ego.evaluation.baselines import ExoView, open_baseline
from exo2ego.evaluation.baselines.foundation import WordlessWan, without_views
from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.evaluate import evaluate
from exo2ego.evaluation.metrics import psnr
from exo2ego.evaluation.sample import sample
from exo2ego.evaluation.view_bias import pixel_distance, view_bias
from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from exo2ego.model.condition import condition_latents
from exo2ego.model.flow import SamplerSettings, noisy_latents
from exo2ego.model.pretrained import given_path
from exo2ego.model.vae import LatentCodec, frames_from_video, load_codec, video_from_frames
from exo2ego.model.wan import load_with_text
from exo2ego.training.describe import describe
from exo2ego.training.experiment_file import experiment_names, load_experiment
from exo2ego.training.first_frame_sources import Predicted
from exo2ego.training.first_frames import encode_first_frames
from pipeline.encode import encode_latents
from pipeline.ingest import ingest
from pipeline.simulate.root import simulate_root
from stores.progress import silent
from stores.recipe import ClipRecipe
from stores.schema import ClipShape
from stores.zarr_store import open_store

MOST_MEGABYTES = 40
PARTS = ("vae", "transformer_2")
STAGES = ("align", "multiexocon", "poseinj")
MOST_MEGABYTES_OF_STAGES = 30
SIDE = 64


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The list of one clip, of another world than the weights have seen."""
    folder = tmp_path_factory.mktemp("unseen")
    root = folder / "root"
    simulate_root(root, takes=1, seconds=1.4, seed=404, height=128, samples=2, splits=["test"])
    recipe = ClipRecipe(frames=9, stride=4, hw=(SIDE, SIDE), window_step=12)
    ingest(root, folder / "clips.parquet", recipe=recipe)
    return folder / "clips.parquet"


@pytest.fixture(scope="module")
def videos(unseen: Path) -> torch.Tensor:
    """The clip's five cameras: "v 3 T H W"."""
    films = write_films(unseen, unseen.parent, silent)
    return video_from_frames(torch.from_numpy(films.frames[0].copy()))


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return load_codec("mini")


@pytest.fixture(scope="module")
def wan() -> WordlessWan:
    return WordlessWan(load_with_text("mini").eval(), known=True)


@pytest.fixture(scope="module")
def latents(codec: LatentCodec, videos: torch.Tensor) -> torch.Tensor:
    """Of the five cameras, ego first: "v c t h w"."""
    return codec.encode(videos)


@pytest.mark.parametrize(
    ("parts", "most"), [(PARTS, MOST_MEGABYTES), (STAGES, MOST_MEGABYTES_OF_STAGES)]
)
def test_all_are_small_and_have_a_card_each(parts: tuple[str, ...], most: int):
    folder = given_path("mini")
    files = [path for part in parts for path in (folder / part).iterdir()]
    assert sum(path.stat().st_size for path in files) < most * 1e6
    for part in parts:
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


def test_latents_are_normalised(latents: torch.Tensor):
    assert abs(float(latents.mean())) < 0.25
    assert float(latents.std()) == pytest.approx(1.0, abs=0.25)


@torch.no_grad()
@pytest.mark.parametrize("sigma", [0.5, 0.8, 0.95])
def test_the_foundation_knows_what_its_videos_look_like(
    wan: WordlessWan, codec: LatentCodec, latents: torch.Tensor, videos: torch.Tensor, sigma: float
):
    """Well below the least error of a linear guess that takes latents for independent."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    levels = torch.full((len(latents),), sigma)
    given = without_views(condition_latents(codec, latents[:, :, 0], videos.shape[2], "decode"))
    made = wan(noisy_latents(latents, noise, levels), levels, given)
    error = float((made - (noise - latents)).square().mean())
    variance = float(latents.var())
    linear = variance / (sigma**2 + (1 - sigma) ** 2 * variance)
    assert error < 0.5 * linear


def test_it_goes_on_from_a_first_frame_and_stays_with_its_camera(
    wan: WordlessWan, codec: LatentCodec, videos: torch.Tensor
):
    """The paper's section 6: asked to go on from an exo frame, it films what that camera sees."""
    ego, *exos = gone_on(wan, codec, videos, SamplerSettings(steps=20, guidance=1))
    truth, *theirs = frames_from_video(videos)
    own = torch.stack([frames[0] for frames in theirs])
    for frames, view in zip(exos, theirs, strict=True):
        bias = view_bias(frames[0], truth[0], own, pixel_distance)
        assert bias is not None and bias > 0.3
        assert float(psnr(frames, view).mean()) > 20
    assert float(psnr(ego[:1], truth[:1]).mean()) > 20


def test_the_shipped_stages_see_through_the_eyes_of_a_take_that_they_have_not_seen(
    unseen: Path, tmp_path: Path
):
    """Nearer to the truth than the best exo view by far, and than any exo view in its bias."""
    encode_latents(unseen, tmp_path / "store", vae_spec="mini")
    store = open_store(tmp_path / "store", derive=CLIP_CAMERAS)
    align = Predicted(Path("mini/align"), allow_other_store=True)
    encode_first_frames(store, align, vae_spec="mini")
    told = {"vae_spec": "mini", "clips": ClipChoice("test-1")}
    few = SamplerSettings(steps=10, guidance=1)
    sample(store, Path("mini/poseinj"), tmp_path / "ours", sampler=few, **told)
    open_baseline(store, ExoView(), tmp_path / "exo", **told).fill(silent)
    ours, exo = (evaluate(store, tmp_path / name).overall for name in ("ours", "exo"))
    assert ours.psnr > exo.psnr + 2 and ours.ssim > exo.ssim
    assert isinstance(ours.view_bias_pixels, float) and ours.view_bias_pixels < 0


def test_a_folder_of_ones_own_comes_before_a_shipped_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert given_path("mini/align") == given_path("mini") / "align"
    Path("mini/align").mkdir(parents=True)
    assert given_path("mini/align") == Path("mini/align")
    assert given_path("mini/nothing") == Path("mini/nothing")


@pytest.mark.parametrize("name", [name for name in experiment_names() if name.startswith("mini-")])
def test_experiments_of_the_miniature_world_fit_its_foundation(name: str):
    about = describe(load_experiment(name), clip=ClipShape(4, 9, (SIDE, SIDE)), wan_spec="mini")
    assert 0 < about.trained < 12e6 and about.fits
