"""Claims about arrays that no store keeps: made of a clip's cameras whenever they are read."""

from pathlib import Path

import numpy as np
import pytest
import torch

from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from stores.errors import StoreFault
from stores.stream import ClipStream
from stores.zarr_store import open_store


def test_ego_poses_are_chained_through_the_world(store_path: Path) -> None:
    store = open_store(store_path, derive=CLIP_CAMERAS)
    stream = ClipStream(store, ("ego_poses",), batch_size=2, seed=3)
    batch = stream.batch_at(0)
    for clip_id, got in zip(batch.clip_ids, batch["ego_poses"], strict=True):
        clip = store.row(clip_id)
        ref_from_world = np.linalg.inv(clip.present[0].world_from_cam[0])
        expected = (ref_from_world @ clip.ego.world_from_cam)[:, :3].reshape(-1, 12)
        torch.testing.assert_close(got, torch.from_numpy(expected).float())


def test_without_what_makes_them_they_are_refused(store_path: Path) -> None:
    with pytest.raises(StoreFault, match="nothing here makes it") as fault:
        ClipStream(open_store(store_path), ("ego_poses",), batch_size=1, seed=0)
    assert "CLIP_CAMERAS" in fault.value.fix
