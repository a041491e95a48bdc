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
from jaxtyping import Bool, Float16
from torch import Tensor
from torch.nn import functional

from benchmarks.mini.films import Films
from benchmarks.mini.loop import Schedule, quick_arithmetic, train
from benchmarks.mini.vae import halved
from benchmarks.mini.words import TEXT_WIDTH, prompt_tokens
from exo2ego.model.condition import condition_latents, with_mask
from exo2ego.model.flow import SigmaSettings, draw_sigmas, noisy_latents, timestep_of
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.vae import LatentCodec, video_from_frames
from exo2ego.model.wan import wan_velocity
from exo2ego.model.wan_expert import IN_CHANNELS, WanShape
from exo2ego.training.build import train_in_fp32
from stores.atomic import whole_file
from stores.progress import Track, silent
from stores.schema import LATENT_CHANNELS

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


EXO_VIDEOS = 2
"""Of a clip: exo cameras take turns. They stand still, and most of what they see does, too."""
SCHEDULE = Schedule(steps=1500, lr=1e-3, warmup=100, weight_decay=0.01, averaged=0.998)


@dataclass(frozen=True)
class FoundationTraining:
    """What decides the weights. Choice, all of it: the paper's Wan is given."""

    seed: int = 0
    schedule: Schedule = SCHEDULE
    videos: int = 32
    """Of a step."""
    ego: float = 0.5
    """Share of ego videos."""
    no_text: float = 0.2
    """Share of videos whose words are left out, for guidance and for use without any."""
    flow: SigmaSettings = field(default_factory=SigmaSettings)


class Videos(NamedTuple):
    """Single-view videos as latents, and what they are conditioned on."""

    latents: Float16[np.ndarray, "n c t h w"]
    conditions: Float16[np.ndarray, "n c t h w"]
    is_ego: Bool[np.ndarray, " n"]
    categories: tuple[str, ...]


def training_videos(films: Films, codec: LatentCodec, kept: Path, track: Track) -> Videos:
    """Of every training clip the ego video and those of some exo cameras, of half the films' side.

    Conditions are made as `encode-first-frames` makes them; what was made is kept in `kept`.
    """
    cameras = films.frames.shape[1] - 1
    videos = [
        (clip, view)
        for number, clip in enumerate(films.of_split("train"))
        for view in (0, *(1 + (number + turn) % cameras for turn in range(EXO_VIDEOS)))
    ]
    if not kept.exists():
        tracked = track(videos, total=len(videos), what="latents", unit="videos")
        rows = [_encoded(codec, halved(films.frames[clip, view])) for clip, view in tracked]
        with whole_file(kept) as file:
            np.save(file, np.stack(rows))
    latents, conditions = np.load(kept).swapaxes(0, 1)
    is_ego = np.array([view == 0 for _, view in videos])
    return Videos(latents, conditions, is_ego, tuple(films.categories[clip] for clip, _ in videos))


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

    train_in_fp32(wan)

    def loss_of(step: int) -> Tensor:
        with quick_arithmetic():
            return _loss(wan, videos, step, settings)

    train(wan, loss_of, settings.schedule, out / "foundation.checkpoint.pt", track)
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
