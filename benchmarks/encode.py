"""Encoding: decoding as encode-latents does it, what a clip's rows cost to write, two workers."""

import os
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import av
import decord
import numpy as np
import torch

from benchmarks.encode_pace import pace_rows
from benchmarks.encode_workers import worker_rows
from benchmarks.ray_codec import clips_of
from benchmarks.rows import Row, interleaved, interleaved_seconds
from benchmarks.store_clips import EGO, EXO, RECIPE, clip_row, random_row
from exo2ego.geometry.clip_rays import CLIP_RAYS
from pipeline.fit import FrameMaker
from pipeline.video import iterate_frames
from stores.arrays import row_digest, shard_layout
from stores.index import CameraRow, ClipRow
from stores.recipe import ClipRecipe
from stores.schema import ARRAYS
from stores.zarr_store import CLIPS_PER_SHARD, create_store, write_shard

FRAMES, KEY_FRAMES, FPS = 600, 250, 30
"""Of a video: twenty seconds, with key frames as far apart as the dataset's."""
EXO_HW, EGO_HW, VIEWS = (448, 796), (448, 448), 4
ROUNDS, WRITE_ROUNDS = 3, 5
_GOPRO = (420.0, 420.0, 398.0, 224.0, 0.03, 0.01, 0.0, 0.0)
_ARIA = (194.0, 194.0, 223.5, 223.5, *(0.0,) * 12)


def run() -> list[Row]:
    """All rows; about four minutes, more on a busy machine."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *decode_rows(folder / "videos"),
            *write_rows(folder / "store"),
            *pace_rows(folder / "pace"),
            *ray_rows(folder),
            *worker_rows(folder / "workers"),
        ]


def decode_rows(folder: Path) -> list[Row]:
    """The frames of all windows of a take, against every frame of the same videos in order."""
    folder.mkdir(parents=True)
    exo, ego = folder / "exo.mp4", folder / "ego.mp4"
    write_video(exo, EXO_HW, FRAMES, seed=0)
    write_video(ego, EGO_HW, FRAMES, seed=1)
    videos, wanted = [*[exo] * VIEWS, ego], wanted_frames(ClipRecipe(), FRAMES)

    def ours() -> None:
        for path in videos:
            for _ in iterate_frames(path, wanted):
                pass

    def plain() -> None:
        for path in videos:
            reader = decord.VideoReader(str(path), num_threads=1)
            for _ in range(FRAMES):
                reader.next()
            del reader  # its threads hold memory until it is gone

    resample = {path: _resampling(path, wanted) for path in (exo, ego)}
    works = {"ours": ours, "plain": plain, "exo": resample[exo], "ego": resample[ego]}
    seconds = interleaved_seconds(works, ROUNDS)
    note = f"{1e3 * seconds['ours'] / len(videos) / FRAMES:.2f} ms a frame of the video"
    each = {name: 1e3 * seconds[name] / len(wanted) for name in ("exo", "ego")}
    return [
        Row(
            "decoding of a take, per plain sequential decode",
            *(seconds["plain"] / seconds["ours"], "", 0.8, None, note),
        ),
        Row("an exo frame squashed to 256x256", each["exo"], "ms"),
        Row("an ego frame undistorted to 256x256", each["ego"], "ms"),
    ]


def wanted_frames(recipe: ClipRecipe, frames: int) -> list[int]:
    """The frames of all windows of a video of so many frames."""
    starts = range(0, frames - recipe.stride * (recipe.frames - 1), recipe.window_step)
    every = {start + k * recipe.stride for start in starts for k in range(recipe.frames)}
    return sorted(every)


def write_video(path: Path, hw: tuple[int, int], frames: int, seed: int) -> None:
    """A textured picture that a camera pans over, as h264 with far key frames."""
    random = np.random.default_rng(seed)
    room = (hw[0] + 64, hw[1] + 64)
    blocks = random.integers(0, 255, (room[0] // 8 + 1, room[1] // 8 + 1, 3), np.uint8)
    scene = np.ascontiguousarray(blocks.repeat(8, 0).repeat(8, 1))
    with av.open(str(path), "w") as container:
        options = {"g": str(KEY_FRAMES), "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = *hw, "yuv420p"
        for frame in range(frames):
            y, x = (round(32 + 31 * wave(frame / 40)) for wave in (np.sin, np.cos))
            picture = np.ascontiguousarray(scene[y : y + hw[0], x : x + hw[1]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _resampling(path: Path, wanted: list[int]) -> Callable[[], None]:
    is_ego = path.name == "ego.mp4"
    lens, params, hw = (
        ("fisheye624", _ARIA, EGO_HW) if is_ego else ("kannala_brandt", _GOPRO, EXO_HW)
    )
    camera = CameraRow(path.stem, path.name, lens, params, hw, 0, np.eye(4)[None])
    make = FrameMaker(ClipRecipe(), camera, is_ego=is_ego)
    (_, frame), *_ = iterate_frames(path, wanted[:1])

    def resample() -> None:
        for _ in wanted:
            make(torch.from_numpy(frame)[None])

    return resample


def write_rows(path: Path) -> list[Row]:
    """What the latents of a clip cost, from memory to the disk, in milliseconds."""
    clips = [clip_row(number) for number in range(CLIPS_PER_SHARD)]
    arrays = {n: [random_row(n, k) for k in range(CLIPS_PER_SHARD)] for n in (EXO, EGO)}
    create_store(path, RECIPE)
    layouts = {n: shard_layout(ARRAYS[n], RECIPE.clips.shape, CLIPS_PER_SHARD) for n in arrays}
    data, numbers = b"".join(row.tobytes() for rows in arrays.values() for row in rows), count()

    def plain(sync: bool) -> None:
        with (path / "plain").open("wb", buffering=0) as file:
            file.write(data)
            if sync:
                os.fsync(file.fileno())

    works = {
        "all": lambda: write_shard(path, next(numbers), clips, arrays),
        "hash": lambda: [row_digest(layouts[n], row) for n in arrays for row in arrays[n]],
        "write": partial(plain, sync=False),
        "sync": partial(plain, sync=True),
    }
    spent = interleaved(works, WRITE_ROUNDS)
    taken = {name: median(each.seconds for each in some) for name, some in spent.items()}
    ms = {name: 1e3 * seconds / CLIPS_PER_SHARD for name, seconds in taken.items()}
    cpu_ms = 1e3 * median(each.cpu_seconds for each in spent["all"]) / CLIPS_PER_SHARD
    note = f"{cpu_ms:.3f} of it CPU, {ms['hash']:.3f} blake3; the same bytes in one plain file: "
    note += f"{ms['write']:.3f} to write, {ms['sync']:.3f} with fsync"
    return [Row("latents hashed, written and synced", ms["all"], "ms a clip", note=note)]


def ray_rows(folder: Path) -> list[Row]:
    """What the rays of a clip cost: to make, and to hash, pack and write."""
    recipe, clips = clips_of("pinhole", folder)
    rows = {name: [make(recipe, clip) for clip in clips] for name, make in CLIP_RAYS.items()}
    path, numbers = folder / "rays.store", count()
    create_store(path, RECIPE)
    layout = shard_layout(ARRAYS["ego_rays"], RECIPE.clips.shape, CLIPS_PER_SHARD)
    works = {
        "make": lambda: _make_all(recipe, clips),
        "hash": lambda: [row_digest(layout, row) for row in rows["ego_rays"]],
        "write": lambda: write_shard(path, next(numbers), clips, rows),
    }
    seconds = interleaved_seconds(works, WRITE_ROUNDS)
    ms = {name: 1e3 * taken / len(clips) for name, taken in seconds.items()}
    note = f"{ms['hash']:.1f} of it are blake3"
    return [
        Row("rays made of the cameras", ms["make"], "ms a clip"),
        Row("rays hashed, packed, written and synced", ms["write"], "ms a clip", note=note),
    ]


def _make_all(recipe: ClipRecipe, clips: tuple[ClipRow, ...]) -> None:
    for make in CLIP_RAYS.values():
        for clip in clips:
            make(recipe, clip)
