"""Three short takes on disk, and the index of their clips: what the tests of the encode share."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.encode import EncodeReport, encode_latents
from stores.index import CameraRow, ClipIndex, ClipRecipe, ClipRow, write_index

RECIPE = ClipRecipe(frames=5, stride=2, window_step=6, views=2, hw=(32, 48))
EGO_HW, EXO_HW, FRAMES = (40, 40), (36, 64), 30
ARIA = (12.0, 12.0, 19.5, 20.5, *(0.0,) * 12)
GOPRO = (30.0, 31.0, 32.0, 18.0, 0.03, 0.01, 0.0, 0.0)


def write_video(path: Path, hw: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *hw, "yuv420p"
        for _ in range(FRAMES):
            blocks = random.integers(0, 255, (hw[0] // 4, hw[1] // 4, 3), np.uint8)
            image = np.ascontiguousarray(blocks.repeat(4, 0).repeat(4, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def camera(take: str, cam_id: str, lens: str, hw: tuple[int, int], places: int) -> CameraRow:
    poses = np.tile(np.eye(4), (places, 1, 1))
    poses[:, :3, 3] = np.arange(places * 3).reshape(places, 3) / 10 + len(cam_id)
    params = ARIA if lens == "fisheye624" else GOPRO
    turns = 1 if lens == "fisheye624" else 0
    return CameraRow(cam_id, f"takes/{take}/{cam_id}.mp4", lens, params, hw, turns, poses)


def clip(take: str, start: int, split: str) -> ClipRow:
    return ClipRow(
        clip_id=f"{take}-f{start:06d}",
        take_name=take,
        take_uid=take,
        capture_name="capture",
        participant_uid="1",
        category="Bike Repair",
        split=split,
        frames=tuple(range(start, start + 10, 2)),
        ego=camera(take, "aria01", "fisheye624", EGO_HW, 5),
        exos=tuple(camera(take, f"cam{k:02d}", "kannala_brandt", EXO_HW, 1) for k in (1, 2)),
        sets=("test-all",) if split == "test" else (),
    )


@dataclass
class Takes:
    """Three takes on disk, one of them for testing, and the index of their clips."""

    folder: Path
    rows: tuple[ClipRow, ...]
    recipe: ClipRecipe = RECIPE

    def index(
        self, rows: Iterable[ClipRow] | None = None, recipe: ClipRecipe | None = None
    ) -> Path:
        path = self.folder / "clips.parquet"
        chosen = self.rows if rows is None else tuple(rows)
        write_index(path, ClipIndex(str(self.folder), recipe or self.recipe, chosen))
        return path

    def files(self, name: str) -> dict[Path, int]:
        """The store's shards, and when each was written."""
        found = (self.folder / name).glob("arrays/*/c/**/*")
        return {path: path.stat().st_mtime_ns for path in found if path.is_file()}

    def written(self, name: str, before: dict[Path, int]) -> set[str]:
        """Arrays that have shards which were not there; those that were are as they were."""
        now = self.files(name)
        assert before.items() <= now.items()
        return {path.relative_to(self.folder / name).parts[1] for path in now.keys() - before}

    def encode(self, name: str, rows: Iterable[ClipRow] | None = None, **more: Any) -> EncodeReport:
        options = {"vae_spec": "tiny", "clips_per_shard": 2} | more
        return encode_latents(
            self.index(rows, options.pop("recipe", None)), self.folder / name, **options
        )


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> Takes:
    folder = tmp_path_factory.mktemp("egoexo")
    splits = {"take_a": "train", "take_b": "test", "take_c": "train"}
    rows = [clip(take, start, split) for take, split in splits.items() for start in (0, 6, 12)]
    for seed, take in enumerate(splits):
        for k, view in enumerate((rows[0].ego, *rows[0].exos)):
            path = folder / view.video.replace("take_a", take)
            write_video(path, EGO_HW if k == 0 else EXO_HW, seed * 10 + k)
    return Takes(folder, tuple(rows))


@pytest.fixture(scope="module")
def whole(takes: Takes) -> EncodeReport:
    """An encode that nothing disturbed."""
    return takes.encode("whole", workers=2)
