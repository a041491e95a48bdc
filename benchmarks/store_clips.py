"""A store of clips of the paper's size with random numbers in it."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from stores.index import CameraRow, ClipRow
from stores.recipe import ClipRecipe
from stores.schema import ARRAYS
from stores.version import StoredClip, StoreRecipe, VaeRecipe
from stores.zarr_store import CLIPS_PER_SHARD, commit, create_store, stored_clips, write_shard

RECIPE = StoreRecipe(
    clips=ClipRecipe(), vae=VaeRecipe(class_name="random", weights_digest="0", config_digest="0")
)
EXO, EGO, RAYS = "exo_latents", "ego_latents", "align_rays"
EGO_RAYS = "ego_rays"
_BIG = np.uint16(0x7C00)
"""Bits of float16's infinity: all words below are finite."""
CLIPS_A_TAKE = 30


def random_row(array: str, number: int) -> np.ndarray:
    """One clip's row of the array: finite, no two alike, and nothing that could be compressed."""
    shape = ARRAYS[array].row_shape(RECIPE.clips.shape)
    random = np.random.default_rng([len(array), number])
    return random.integers(0, _BIG, shape, dtype=np.uint16).view(np.float16)


def clip_row(number: int) -> ClipRow:
    """A clip's entry, as long as a real one: a take's exo cameras, a pose for every ego frame."""
    take, start = divmod(number, CLIPS_A_TAKE)
    name, recipe = f"cmu_bike{take:05d}_2", RECIPE.clips
    frames = tuple(start * recipe.span + k * recipe.stride for k in range(recipe.frames))
    return ClipRow(
        clip_id=f"{name}-f{frames[0]:06d}",
        take_name=name,
        take_uid=f"00000000-0000-4000-8000-{take:012d}",
        capture_name=name.removesuffix("_2"),
        participant_uid=str(take % 700),
        category="Bike Repair",
        split="train",
        frames=frames,
        ego=_camera([take, start], f"takes/{name}", "aria01", "fisheye624", 16, recipe.frames),
        exos=tuple(
            _camera([take, -k % 2**32], f"takes/{name}", f"cam{k:02d}", "kannala_brandt", 8, 1)
            for k in range(1, recipe.views + 1)
        ),
        sets=(),
    )


def normal_row(array: str, number: int) -> np.ndarray:
    """One clip's row of the array, from a normal distribution: what a model can train on."""
    shape = ARRAYS[array].row_shape(RECIPE.clips.shape)
    random = np.random.default_rng([len(array), number])
    return random.standard_normal(shape, dtype=np.float32).astype(np.float16)


def write_store(
    path: Path,
    clips: int,
    names: Sequence[str] = (EXO, EGO, RAYS),
    row: Callable[[str, int], np.ndarray] = random_row,
) -> str:
    """Writes and commits a store whose clip k is row k of every array; returns its hash."""
    create_store(path, RECIPE)
    stored: list[StoredClip] = []
    for shard, first in enumerate(range(0, clips, CLIPS_PER_SHARD)):
        numbers = range(first, min(first + CLIPS_PER_SHARD, clips))
        clip_rows = [clip_row(number) for number in numbers]
        arrays = {name: map(partial(row, name), numbers) for name in names}
        finished = write_shard(path, shard, clip_rows, arrays)
        stored += stored_clips(
            finished, {about.clip_id: about for about in clip_rows}, CLIPS_PER_SHARD
        )
    return commit(path, stored, command="benchmark", index_digest="0")


def _camera(
    seed: list[int], folder: str, cam_id: str, lens: str, params: int, poses: int
) -> CameraRow:
    random = np.random.default_rng(seed)
    video = f"{folder}/frame_aligned_videos/downscaled/448/{cam_id}.mp4"
    numbers = tuple(random.uniform(100, 900, params).tolist())
    placed = np.tile(np.eye(4), (poses, 1, 1))
    placed[:, :3] = random.normal(size=(poses, 3, 4))
    return CameraRow(cam_id, video, lens, numbers, (448, 796), 0, placed)
