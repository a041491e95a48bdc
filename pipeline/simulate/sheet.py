"""A picture of a simulated root: one instant of some takes, four exo views beside the ego view."""

from pathlib import Path

import av
import numpy as np
import orjson
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image

from pipeline.simulate.entries import ARIA_STREAMS

EXOS = 4
COLOURS = 256
"""Of the written picture: a third of the bytes, and no difference to the eye."""


def draw_sheet(
    root: Path, out: Path, *, takes: int = 4, frame: int = 14, height: int = 336
) -> None:
    """Writes a PNG of the first takes, two abreast, each `height` pixels high, at one frame."""
    names = [entry["take_name"] for entry in orjson.loads((root / "takes.json").read_bytes())]
    rows = [_one_take(root / "takes" / name, frame, height) for name in names[:takes]]
    while len(rows) % 2:
        rows.append(np.zeros_like(rows[0]))
    sheet = rearrange(np.stack(rows), "(r c) h w k -> (r h) (c w) k", c=2)
    Image.fromarray(sheet).quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


def _one_take(folder: Path, frame: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    """The first four exo views, two by two, and the ego view at twice their height."""
    videos = sorted((folder / "frame_aligned_videos/downscaled/448").glob("*.mp4"))
    ego = next(path for path in videos if path.stem.endswith(ARIA_STREAMS["rgb"]))
    exos = [path for path in videos if path != ego][:EXOS]
    half = height // 2
    small = np.stack([_frame(path, frame, (half, half * 16 // 9)) for path in exos])
    four = rearrange(small, "(r c) h w k -> (r h) (c w) k", r=2)
    return np.concatenate([four, _frame(ego, frame, (height, height))], axis=1)


def _frame(path: Path, number: int, hw: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """One frame of a video, or its last, at another size."""
    picture = None
    with av.open(str(path)) as video:
        for count, picture in enumerate(video.decode(video=0)):  # noqa: B007
            if count == number:
                break
    if picture is None:
        raise ValueError(f"{path} holds no frame")
    image = picture.to_image().resize((hw[1], hw[0]), Image.Resampling.LANCZOS)
    return np.asarray(image)
