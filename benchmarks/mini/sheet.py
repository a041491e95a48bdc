"""Pictures of what the miniature VAE makes of frames that it has not seen."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from benchmarks.mini.films import Films
from exo2ego.model.vae import frames_from_video, load_codec, video_from_frames
from pipeline.simulate.sheet import COLOURS


def draw_vae_sheet(vae: str, films: Films, path: Path, clips: int = 4) -> None:
    """A PNG of two rows: frames of held-out clips, and below each what the VAE makes of it.

    Of each clip the first and last frame of the ego view and of the first exo view.
    """
    codec, chosen = load_codec(vae), films.of_split("val")
    columns = []
    for clip in chosen[:: max(1, len(chosen) // clips)][:clips]:
        for view in (0, 1):
            video = video_from_frames(torch.from_numpy(films.frames[clip, view][None].copy()))
            made = codec.decode(codec.encode(video))
            for shown in (0, -1):
                pair = torch.stack([frames_from_video(one)[0, shown] for one in (video, made)])
                columns.append(rearrange(pair, "two H W rgb -> (two H) W rgb").numpy())
    sheet = rearrange(np.stack(columns), "(rows n) H W rgb -> (rows H) (n W) rgb", rows=2)
    picture = Image.fromarray(sheet).quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
