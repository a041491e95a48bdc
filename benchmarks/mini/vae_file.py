"""The miniature VAE as a folder of weights, and how well it gives back what it has not seen."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from einops import rearrange
from torch import Tensor

from benchmarks.mini.films import Films
from benchmarks.mini.vae import halved
from exo2ego.evaluation.metrics import psnr
from exo2ego.model.vae import LatentCodec, frames_from_video, load_codec, video_from_frames


@dataclass(frozen=True)
class VaeScore:
    """Mean PSNR in dB of the frames of held-out clips, as they come back."""

    side: int
    """Pixels of a frame."""
    clips: int
    ego: float
    exo: float
    first: float
    """Of first frames alone, which have a latent frame of their own."""


def write_vae(vae: AutoencoderKLWan, films: Films, folder: Path, clips: int) -> None:
    """Writes weights in half precision, with the latents' statistics over so many clips."""
    raw = LatentCodec(_named(vae, [0.0] * vae.config["z_dim"], [1.0] * vae.config["z_dim"]))
    latents = [raw.encode(video) for video in _videos(films, films.of_split("train")[:clips], 64)]
    channels = rearrange(torch.cat(latents), "b c t h w -> c (b t h w)")
    whole = _named(vae, channels.mean(dim=1).tolist(), channels.std(dim=1).tolist())
    whole.half().save_pretrained(folder)


def _named(vae: AutoencoderKLWan, means: list[float], deviations: list[float]) -> AutoencoderKLWan:
    """The same weights with other statistics in the configuration."""
    shape = {"base_dim": vae.config["base_dim"], "z_dim": vae.config["z_dim"]}
    named = AutoencoderKLWan(**shape, latents_mean=means, latents_std=deviations)
    named.load_state_dict(vae.state_dict())
    return named


def score_vae(folder: Path, films: Films, split: str, side: int) -> VaeScore:
    """The score of written weights on the clips of a split at a size."""
    codec, of_camera, first = load_codec(str(folder)), ([], []), []
    clips = films.of_split(split)
    for number, video in enumerate(_videos(films, clips, side)):
        truth = rearrange(frames_from_video(video), "1 T H W rgb -> T H W rgb")
        made = frames_from_video(codec.decode(codec.encode(video)))
        scores = psnr(rearrange(made, "1 T H W rgb -> T H W rgb"), truth)
        of_camera[int(number % films.frames.shape[1] > 0)].append(float(scores.mean()))
        first.append(float(scores[0]))
    return VaeScore(side, len(clips), mean(of_camera[0]), mean(of_camera[1]), mean(first))


def _videos(films: Films, clips: list[int], side: int) -> Iterator[Tensor]:
    """Every camera's video of some clips at a size, the ego one of each first."""
    for clip in clips:
        for view in films.frames[clip]:
            frames = np.asarray(view) if view.shape[1] == side else halved(view)
            yield video_from_frames(torch.from_numpy(frames.copy())[None])
