"""The miniature foundation model: Wan's own class, trained as a single-view image-to-video model.

`python -m benchmarks.mini foundation`. It sees one camera's video at a time, ego or exo, with
Wan's 36 input channels and a few words in place of T5's text: nothing tells it of other views.
Stopped at any time, it goes on from its last checkpoint.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from jaxtyping import Bool, Float, Float16
from torch import Tensor
from torch.nn import functional

from benchmarks.mini.films import Films
from benchmarks.mini.optimiser import MuonAndAdam, cosine
from benchmarks.mini.vae import halved
from benchmarks.mini.words import TEXT_WIDTH, prompt_tokens
from exo2ego.model.condition import condition_latents, with_mask
from exo2ego.model.flow import SigmaSettings, draw_sigmas, noisy_latents, timestep_of
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.vae import LatentCodec, video_from_frames
from exo2ego.model.wan import wan_velocity
from exo2ego.model.wan_expert import IN_CHANNELS, WanShape
from stores.atomic import whole_file
from stores.progress import Track, silent
from stores.schema import LATENT_CHANNELS

TOLD_EVERY, KEPT_EVERY = 50, 250
"""Steps from one line on stdout, or one checkpoint, to the next."""
SHAPE = WanShape(
    num_attention_heads=5,
    attention_head_dim=64,
    in_channels=IN_CHANNELS,
    out_channels=LATENT_CHANNELS,
    text_dim=TEXT_WIDTH,
    freq_dim=256,
    ffn_dim=1280,
    num_layers=7,
)
"""Choice: 12 M parameters; heads as wide as half of Wan's."""


@dataclass(frozen=True)
class FoundationTraining:
    """What decides the weights. Choice, all of it: the paper's Wan is given."""

    seed: int = 0
    steps: int = 2500
    warmup: int = 100
    lr: float = 1e-3
    last_lr: float = 1e-5
    videos: int = 32
    """Of a step."""
    ego: float = 0.5
    """Share of ego videos."""
    no_text: float = 0.2
    """Share of videos whose words are left out, for guidance and for use without any."""
    decay: float = 0.998
    """Of the averaged weights, which are what is kept."""
    flow: SigmaSettings = field(default_factory=SigmaSettings)


class Videos(NamedTuple):
    """Single-view videos as latents, and what they are conditioned on."""

    latents: Float16[np.ndarray, "n c t h w"]
    conditions: Float16[np.ndarray, "n c t h w"]
    is_ego: Bool[np.ndarray, " n"]
    categories: tuple[str, ...]


def training_videos(films: Films, codec: LatentCodec, kept: Path, track: Track) -> Videos:
    """Every camera's video of the training clips, of half the films' side.

    Conditions are made as `encode-first-frames` makes them; what was made is kept in `kept`.
    """
    clips, views = films.of_split("train"), films.frames.shape[1]
    is_ego = np.tile(np.arange(views) == 0, len(clips))
    categories = tuple(films.categories[clip] for clip in clips for _ in range(views))
    if not kept.exists():
        videos = [(clip, view) for clip in clips for view in range(views)]
        rows = [
            _encoded(codec, halved(films.frames[clip, view]))
            for clip, view in track(videos, total=len(videos), what="latents", unit="videos")
        ]
        with whole_file(kept) as file:
            np.save(file, np.stack(rows))
    latents, conditions = np.load(kept).swapaxes(0, 1)
    return Videos(latents, conditions, is_ego, categories)


def _encoded(codec: LatentCodec, frames: np.ndarray) -> Float16[np.ndarray, "two c t h w"]:
    """A video's latents and its condition."""
    latents = codec.encode(video_from_frames(torch.from_numpy(frames[None])))
    condition = condition_latents(codec, latents[:, :, 0], len(frames), "decode")
    return torch.cat([latents, condition]).half().numpy()


def train_foundation(
    videos: Videos, out: Path, settings: FoundationTraining, track: Track = silent
) -> WanTransformer3DModel:
    """The averaged weights, on the CPU in fp32."""
    with initial_weights_from(torch.Generator().manual_seed(settings.seed)):
        wan = WanTransformer3DModel(**SHAPE.model_dump())
    averages = {name: value.clone() for name, value in wan.state_dict().items()}
    optimiser = MuonAndAdam(wan, settings.lr, decay=0.01)
    checkpoint, shown = out / "foundation.checkpoint.pt", 0.0
    first = _resume(checkpoint, wan, optimiser, averages)
    steps = range(first, settings.steps)
    for step in track(steps, total=len(steps), what="foundation", unit="steps"):
        loss = _loss(wan, videos, step, settings)
        loss.backward()
        rate = cosine(step, settings.steps, settings.warmup, settings.lr, settings.last_lr)
        optimiser.step(rate)
        decay = min(settings.decay, (step + 1) / (step + 10))
        for name, value in wan.state_dict().items():
            averages[name].lerp_(value, 1 - decay)
        shown += float(loss.detach())
        if (step + 1) % TOLD_EVERY == 0:
            print(f"step {step + 1}: mean loss {shown / TOLD_EVERY:.4f}", flush=True)
            shown = 0.0
        if (step + 1) % KEPT_EVERY == 0:
            _keep(checkpoint, wan, optimiser, averages, step + 1)
    wan.load_state_dict(averages)
    return wan.eval()


def _loss(
    wan: WanTransformer3DModel, videos: Videos, step: int, settings: FoundationTraining
) -> Tensor:
    rng = np.random.default_rng([settings.seed, step])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    wants_ego = rng.random(settings.videos) < settings.ego
    pools = {kind: np.flatnonzero(videos.is_ego == kind) for kind in (True, False)}
    chosen = [int(rng.choice(pools[bool(kind)])) for kind in wants_ego]
    silent = rng.random(settings.videos) < settings.no_text
    words = [
        "" if none else prompt_of(videos.categories[number], is_ego=bool(videos.is_ego[number]))
        for number, none in zip(chosen, silent, strict=True)
    ]
    latents = torch.from_numpy(videos.latents[chosen]).float()
    condition = with_mask(torch.from_numpy(videos.conditions[chosen]).float())
    noise = torch.randn(latents.shape, generator=generator)
    sigma = draw_sigmas(len(chosen), settings.flow, generator)
    channels = torch.cat([noisy_latents(latents, noise, sigma), condition], dim=1)
    made = wan_velocity(wan, channels, timestep_of(sigma), prompt_tokens(words))
    return functional.mse_loss(made, noise - latents)


def prompt_of(category: str, *, is_ego: bool) -> str:
    """What the model is told of a video."""
    return f"{'first' if is_ego else 'third'} person view of {category}"


def _resume(
    path: Path,
    wan: WanTransformer3DModel,
    optimiser: MuonAndAdam,
    averages: dict[str, Float[Tensor, "..."]],
) -> int:
    """The step to go on with."""
    if not path.exists():
        return 0
    kept = torch.load(path, weights_only=True)
    wan.load_state_dict(kept["wan"])
    optimiser.load_state_dict(kept["optimiser"])
    averages.update(kept["averages"])
    return kept["step"]


def _keep(
    path: Path,
    wan: WanTransformer3DModel,
    optimiser: MuonAndAdam,
    averages: dict[str, Float[Tensor, "..."]],
    step: int,
) -> None:
    partial = path.with_suffix(".partial")
    kept = {"wan": wan.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save(kept | {"averages": averages, "step": step}, partial)
    partial.replace(path)
