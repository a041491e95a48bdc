"""Pictures of what the miniature models make of scenes that they have not seen."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from benchmarks.mini.films import Films
from benchmarks.mini.vae import halved
from exo2ego.evaluation.baselines.foundation import WordlessWan, without_views
from exo2ego.model.condition import condition_latents
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.sampling import sample
from exo2ego.model.vae import LatentCodec, frames_from_video, load_codec, video_from_frames
from exo2ego.model.wan import load_with_text
from pipeline.simulate.sheet import COLOURS


def draw_vae_sheet(vae: str, films: Films, path: Path, clips: int = 4) -> None:
    """A PNG of two rows: frames of held-out clips, and below each what the VAE makes of it.

    Of each clip the first and last frame of the ego view and of the first exo view.
    """
    codec, columns = load_codec(vae), []
    for clip in _some_held_out(films, clips):
        for view in (0, 1):
            video = video_from_frames(torch.from_numpy(films.frames[clip, view][None].copy()))
            made = codec.decode(codec.encode(video))
            for shown in (0, -1):
                pair = torch.stack([frames_from_video(one)[0, shown] for one in (video, made)])
                columns.append(rearrange(pair, "two H W rgb -> (two H) W rgb").numpy())
    _save(rearrange(np.stack(columns), "(rows n) H W rgb -> (rows H) (n W) rgb", rows=2), path)


def draw_foundation_sheet(wan: str, vae: str, films: Films, path: Path, clips: int = 4) -> None:
    """A PNG of two rows: first, middle and last frames of held-out videos, and what is generated.

    The foundation model goes on from the first frame of the ego view, and of the first exo view.
    """
    codec, generator = load_codec(vae), WordlessWan(load_with_text(wan).eval(), known=True)
    chosen = _some_held_out(films, clips)
    frames = np.stack([halved(films.frames[clip, view]) for clip in chosen for view in (0, 1)])
    video = video_from_frames(torch.from_numpy(frames))
    made = gone_on(generator, codec, video, SamplerSettings(guidance=1))
    shown = [0, frames.shape[1] // 2, -1]
    both = np.stack([frames[:, shown], made[:, shown].numpy()])
    _save(rearrange(both, "two n t H W rgb -> (two H) (n t W) rgb"), path)


@torch.no_grad()
def gone_on(
    generator: WordlessWan,
    codec: LatentCodec,
    videos: Float[Tensor, "n rgb T H W"],
    sampler: SamplerSettings,
) -> UInt8[Tensor, "n T H W 3"]:
    """Frames of generated videos that begin with the first frames of these."""
    latents = codec.encode(videos)
    condition = condition_latents(codec, latents[:, :, 0], videos.shape[2], "decode")
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    made = sample(generator, without_views(condition), noise, sampler)
    return frames_from_video(codec.decode(made))


def _some_held_out(films: Films, clips: int) -> list[int]:
    """Numbers of that many clips of split val, evenly spread."""
    chosen = films.of_split("val")
    return chosen[:: max(1, len(chosen) // clips)][:clips]


def _save(sheet: UInt8[np.ndarray, "H W 3"], path: Path) -> None:
    picture = Image.fromarray(sheet).quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
