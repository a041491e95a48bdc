"""Claims about arrays that no store keeps: made of a clip's cameras whenever they are read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from exo2ego.geometry.camera import rigid_from_quaternion
from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from stores.errors import StoreFault
from stores.index import ClipRow
from stores.stream import ClipStream
from stores.version import StoreRecipe
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


def test_motion_rays_are_ego_rays_as_the_first_ego_frame_sees_them(
    rows: list[ClipRow], recipe: StoreRecipe
) -> None:
    generator = torch.Generator().manual_seed(0)
    frames, names = recipe.clips.frames, ("ego_rays", "ego_poses", "ego_motion_rays")
    for row in rows:
        turns, metres = (torch.randn(frames, n, generator=generator).double() for n in (4, 3))
        moving = rigid_from_quaternion(turns, metres).numpy()
        clip = replace(row, ego=replace(row.ego, world_from_cam=moving))
        made = (CLIP_CAMERAS[name](recipe.clips, clip) for name in names)
        rays, poses, got = (array.astype(float) for array in made)
        first_from_ref = np.linalg.inv(np.vstack([poses[0].reshape(3, 4), [0, 0, 0, 1]]))
        rotation, origin = first_from_ref[:3, :3], first_from_ref[:3, 3]
        moment, direction = (
            np.einsum("ij,TjHW->THWi", rotation, half) for half in np.split(rays, 2, axis=1)
        )
        moment = moment + np.cross(origin, direction)
        expected = np.moveaxis(np.concatenate([moment, direction], axis=-1), -1, 1)
        size = 1 + np.abs(poses).max()
        np.testing.assert_allclose(got, expected, atol=2e-3 * size)  # both are halves
        assert not got[0, :3].any()  # through the first camera's own centre
        assert rays[0, :3].any() and got[-1, :3].any()


def test_without_what_makes_them_they_are_refused(store_path: Path) -> None:
    with pytest.raises(StoreFault, match="nothing here makes it") as fault:
        ClipStream(open_store(store_path), ("ego_poses",), batch_size=1, seed=0)
    assert "CLIP_CAMERAS" in fault.value.fix
