"""The clips' frames as one array on disk, from which the miniature VAE learns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from jaxtyping import UInt8

from pipeline.clip_frames import FrameRequest, decode_clips
from stores.atomic import whole_file
from stores.index import ClipRow, open_index
from stores.progress import Track

ARRAY, LIST = "films.npy", "films.json"


@dataclass(frozen=True)
class Films:
    """Clips of one split, mapped: nothing is read before it is asked for."""

    frames: UInt8[np.ndarray, "n view T H W 3"]
    """The ego camera first, then the exo views."""
    clip_ids: tuple[str, ...]
    splits: tuple[str, ...]
    categories: tuple[str, ...]

    def of_split(self, split: str) -> list[int]:
        """Numbers of the split's clips."""
        return [number for number, name in enumerate(self.splits) if name == split]


def open_films(folder: Path) -> Films:
    """What `write_films` has written."""
    listed = orjson.loads((folder / LIST).read_bytes())
    frames = np.load(folder / ARRAY, mmap_mode="r")
    return Films(frames, *(tuple(listed[name]) for name in ("clip_ids", "splits", "categories")))


def write_films(index: Path, folder: Path, track: Track) -> Films:
    """The central clip of each take of an index. What is there already is kept.

    Raises the fault of a video that cannot be read: every clip counts here.
    """
    if (folder / LIST).exists():
        return open_films(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = open_index(index)
    takes = [rows[len(rows) // 2] for rows in file.takes()]
    shape = (len(takes), 1 + file.recipe.views, file.recipe.frames, *file.recipe.hw, 3)
    array = np.lib.format.open_memmap(folder / ARRAY, mode="w+", dtype=np.uint8, shape=shape)
    requests = [request for number, row in enumerate(takes) for request in _requests(number, row)]
    decoded = decode_clips(Path(file.root), file.recipe, requests)
    for request, frames in track(decoded, total=len(requests), what="films", unit="videos"):
        if isinstance(frames, Exception):
            raise frames
        array[request.position, 0 if request.view is None else 1 + request.view] = frames.numpy()
    array.flush()
    about = {"clip_ids": [row.clip_id for row in takes], "splits": [row.split for row in takes]}
    about["categories"] = [row.category for row in takes]
    with whole_file(folder / LIST) as listed:
        listed.write(orjson.dumps(about))
    return open_films(folder)


def _requests(number: int, row: ClipRow) -> list[FrameRequest]:
    exos = [FrameRequest(number, view, exo, row.frames) for view, exo in enumerate(row.present)]
    return [FrameRequest(number, None, row.ego, row.frames), *exos]
