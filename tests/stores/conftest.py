"""Small stores with random numbers in them, written by the real writer."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from stores.index import CameraRow, ClipRecipe, ClipRow
from stores.schema import ARRAYS
from stores.version import StoreRecipe, VaeRecipe
from stores.zarr_store import commit, create_store, next_shard, stored_clips, write_shard

CLIPS_PER_SHARD = 3


def camera(cam_id: str, moves: int = 1) -> CameraRow:
    poses = np.tile(np.eye(4), (moves, 1, 1))
    poses[:, 0, 3] = np.arange(moves) * 0.1
    params = (50.0, 51.0, 24.0, 16.0)
    return CameraRow(cam_id, f"take/{cam_id}.mp4", "pinhole", params, (32, 48), 0, poses)


def clip_row(number: int, *, split: str = "train", take: str = "take_a") -> ClipRow:
    return ClipRow(
        clip_id=f"{take}-f{number:06d}",
        take_name=take,
        take_uid=f"uid-{take}",
        capture_name="capture",
        participant_uid="7",
        category="Bike Repair" if take == "take_a" else "Cooking",
        split=split,
        frames=tuple(range(number, number + 20, 4)),
        ego=camera("aria", moves=5),
        exos=(camera("cam01"), camera("cam02")),
        sets=("test-all", "test-1") if split == "test" and number == 0 else (),
    )


def random_arrays(clip: ClipRow, recipe: StoreRecipe) -> dict[str, np.ndarray]:
    """Every array's row of a clip, the same whenever the clip's id is the same."""
    random = np.random.default_rng(list(clip.clip_id.encode()))
    rows = {}
    for name, spec in ARRAYS.items():
        shape = spec.row_shape(recipe.clips.shape)
        numbers = random.normal(size=shape) * 50
        if spec.every_clip or clip.split == "test":
            unsigned = spec.dtype == "uint8"
            rows[name] = (np.abs(numbers) if unsigned else numbers).astype(spec.dtype)
    return rows


Arrays = dict[str, dict[str, np.ndarray]]
MakeStore = Callable[..., Path]


@pytest.fixture
def recipe() -> StoreRecipe:
    clips = ClipRecipe(frames=5, views=2, hw=(32, 48))
    vae = VaeRecipe(class_name="Vae", weights_digest="aa", config_digest="bb")
    return StoreRecipe(clips=clips, vae=vae)


@pytest.fixture
def rows() -> list[ClipRow]:
    """Five clips of one training take and two of a test take."""
    train = [clip_row(k * 36) for k in range(5)]
    return train + [clip_row(k * 36, split="test", take="take_b") for k in range(2)]


@pytest.fixture
def arrays(rows: list[ClipRow], recipe: StoreRecipe) -> Arrays:
    """By clip id, the rows of every array."""
    return {row.clip_id: random_arrays(row, recipe) for row in rows}


@pytest.fixture
def add_clips(recipe: StoreRecipe) -> Callable[[Path, Sequence[ClipRow], Arrays], str]:
    """Writes clips, a take a shard and three at most, and commits them; returns the hash."""

    def add(path: Path, clips: Sequence[ClipRow], numbers: Arrays) -> str:
        create_store(path, recipe, clips_per_shard=CLIPS_PER_SHARD)
        shard, new = next_shard(path), []
        for take in dict.fromkeys(clip.take_name for clip in clips):
            members = [clip for clip in clips if clip.take_name == take]
            for first in range(0, len(members), CLIPS_PER_SHARD):
                some = members[first : first + CLIPS_PER_SHARD]
                names = list(numbers[some[0].clip_id])
                given = {n: [numbers[c.clip_id][n] for c in some] for n in names}
                finished = write_shard(path, shard, some, given)
                by_id = {clip.clip_id: clip for clip in some}
                new += stored_clips(finished, by_id, CLIPS_PER_SHARD)
                shard += 1
        return commit(path, new, command="test", index_digest="cc")

    return add


@pytest.fixture
def store_path(tmp_path: Path, rows: list[ClipRow], arrays: Arrays, add_clips: MakeStore) -> Path:
    """A committed store of the seven clips."""
    path = tmp_path / "a.store"
    add_clips(path, rows, arrays)
    return path
