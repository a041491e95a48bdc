"""The rays' codec: size, time to pack and to unpack, and who can read it; and making rays anew."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import orjson
import torch
from numcodecs import blosc

from benchmarks.ray_packings import Packing, packings, readers_of
from benchmarks.rows import Row
from exo2ego.geometry.clip_rays import clip_ego_rays
from pipeline.ingest import ingest
from pipeline.simulate.root import simulate_root
from stores.arrays import create_group
from stores.index import ClipRow, read_index
from stores.recipe import ClipRecipe
from stores.schema import ARRAYS

Lens = Literal["pinhole", "fisheye"]
LENSES: tuple[Lens, ...] = ("pinhole", "fisheye")
TAKES, SECONDS = 4, 1.4
"""Four categories, so four ways to move a head; a clip of each."""
TIMES = 3
"""How often the unpacking of a clip is timed; packing takes long and is timed once."""


def run() -> list[Row]:
    """A row a packing and lens; about two minutes."""
    torch.set_num_threads(1)
    threads_before, blosc.use_threads = blosc.use_threads, False
    try:
        with TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3")
            return [row for lens in LENSES for row in _rows_of(lens, Path(name))]
    finally:
        blosc.use_threads = threads_before


def clips_of(lens: Lens, folder: Path) -> tuple[ClipRecipe, tuple[ClipRow, ...]]:
    """Clips of simulated takes, whose cameras move as a person's head does, and their recipe."""
    root, index, recipe = folder / "root", folder / f"{lens}.parquet", ClipRecipe(ego_lens=lens)
    simulate_root(root, takes=TAKES, seconds=SECONDS, seed=1, height=16, samples=1, faults=False)
    ingest(root, index, recipe=recipe, workers=1)
    return recipe, read_index(index).rows


@dataclass(frozen=True)
class Cost:
    """What packing costs, a clip."""

    ratio: float
    pack_ms: float
    unpack_ms: float


def cost_of(packing: Packing, clips: list[np.ndarray]) -> Cost:
    """Packs and unpacks every clip. Raises ValueError if one comes out other than it went in."""
    packed = [_timed(partial(packing.pack, rays), 1) for rays in clips]
    back = [
        _timed(partial(packing.unpack, data, rays), TIMES)
        for rays, (_, data) in zip(clips, packed, strict=True)
    ]
    for rays, (_, found) in zip(clips, back, strict=True):
        if not np.array_equal(found.view(np.uint16), rays.view(np.uint16)):
            raise ValueError(f"{packing.name} changes the rays")
    size = sum(len(data) for _, data in packed)
    return Cost(
        sum(rays.nbytes for rays in clips) / size,
        1e3 * float(np.mean([seconds for seconds, _ in packed])),
        1e3 * float(np.mean([seconds for seconds, _ in back])),
    )


def _rows_of(lens: Lens, folder: Path) -> list[Row]:
    recipe, clips = clips_of(lens, folder)
    made = [_timed(partial(clip_ego_rays, recipe, clip), TIMES) for clip in clips]
    rays = [row for _, row in made]
    anew = 1e3 * float(np.mean([seconds for seconds, _ in made]))
    stored = stored_codec(folder / "group", recipe)
    rows = [Row(f"{lens}: made anew from the cameras", anew, "ms a clip")]
    for number, packing in enumerate(packings()):
        cost = cost_of(packing, rays)
        readers = readers_of(packing, rays[0], folder / f"{lens}-{number}")
        note = f"pack {cost.pack_ms:.1f} ms, unpack {cost.unpack_ms:.1f} ms a clip; "
        note += f"read by {', '.join(readers) or 'our code alone'}"
        note += "; the store's" * (blosc_settings(packing) == stored)
        rows.append(Row(f"{lens}: {packing.name}", cost.ratio, "times smaller", note=note))
    return rows


def stored_codec(group: Path, recipe: ClipRecipe) -> dict[str, object]:
    """Settings of blosc in a new store's `ego_rays`."""
    create_group(group, [ARRAYS["ego_rays"]], recipe.shape, 1)
    about = orjson.loads((group / "ego_rays" / "zarr.json").read_bytes())
    codecs = about["codecs"][0]["configuration"]["codecs"]
    return next(codec["configuration"] for codec in codecs if codec["name"] == "blosc")


def blosc_settings(packing: Packing) -> dict[str, object] | None:
    """Settings of a packing that is blosc on the axes as they are stored, and nothing else."""
    compressors = packing.zarr.get("compressors", [])
    if packing.zarr.get("filters") or len(compressors) != 1:
        return None
    plain = compressors[0].to_dict()
    return plain["configuration"] if plain["name"] == "blosc" else None


def _timed(work: Callable[[], Any], times: int) -> tuple[float, Any]:
    """Least seconds that the work took, and what it gave."""
    taken, found = [], None
    for _ in range(times):
        began = time.perf_counter()
        found = work()
        taken.append(time.perf_counter() - began)
    return min(taken), found
