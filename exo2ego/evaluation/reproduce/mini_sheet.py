"""A picture of the miniature world's systems: each a row, over an exo view and the truth."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from exo2ego.evaluation.picture import CAPTION_INK
from exo2ego.evaluation.sample_files import read_frames
from stores.reading import Store

CAPTION_COLUMNS = 190
"""Pixels left of each row for its caption."""
EXO_VIEW = 0


def draw_sheet(store: Store, results: Mapping[str, Path], path: Path) -> None:
    """A PNG with three frames (first, middle, last) of one test clip of each category.

    The first row is an exo view, the last one the truth; between them what lies in `results`, by
    caption. Folders that lack one of the clips are left out.
    """
    clips = _one_a_category(store)
    there = {
        name: [folder / f"{clip_id}.safetensors" for clip_id in clips]
        for name, folder in results.items()
    }
    exo = torch.from_numpy(store.read("exo_frames", clips))[:, EXO_VIEW]
    truth = torch.from_numpy(store.read("ego_frames", clips))
    rows = [(f"exo view {EXO_VIEW}", _strip(exo))]
    for name, files in there.items():
        if all(file.is_file() for file in files):
            pairs = zip(files, clips, strict=True)
            frames = torch.stack([read_frames(file, clip_id) for file, clip_id in pairs])
            rows.append((name, _strip(frames)))
    rows.append(("truth", _strip(truth)))
    _write(rows, path)


def _one_a_category(store: Store) -> list[str]:
    """The first clip of the test split of each category, by its name."""
    first: dict[str, str] = {}
    for row in sorted(store.rows, key=lambda row: row.clip_id):
        if row.split == "test":
            first.setdefault(row.category, row.clip_id)
    return [first[category] for category in sorted(first)]


def _strip(frames: UInt8[torch.Tensor, "n T H W 3"]) -> UInt8[np.ndarray, "H nTW 3"]:
    """First, middle and last frames of the clips, side by side."""
    shown = frames[:, [0, frames.shape[1] // 2, -1]]
    return rearrange(shown, "n T H W rgb -> H (n T W) rgb").numpy()


def _write(rows: list[tuple[str, UInt8[np.ndarray, "H W 3"]]], path: Path) -> None:
    """The rows, one below the other, each behind its caption."""
    high, wide, _ = rows[0][1].shape
    sheet = Image.new("RGB", (CAPTION_COLUMNS + wide, high * len(rows)))
    pen = ImageDraw.Draw(sheet)
    for number, (caption, strip) in enumerate(rows):
        sheet.paste(Image.fromarray(strip), (CAPTION_COLUMNS, number * high))
        pen.text((4, number * high + high // 2 - 6), caption, fill=CAPTION_INK)
    sheet.save(path, optimize=True)
