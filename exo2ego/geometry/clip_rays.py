"""Arrays of one clip of an index that follow from its cameras: the one place that makes them.

Whoever encodes them and whoever makes them again at read time calls these: the bits are the same.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float16, Float32
from torch import Tensor

from exo2ego.geometry.camera import compose, invert_rigid
from exo2ego.geometry.clip_lenses import ego_lens
from exo2ego.geometry.clip_points import clip_align_points
from exo2ego.geometry.plucker import align_rays, ego_rays
from stores.index import CameraRow, ClipRow
from stores.recipe import ClipRecipe


def clip_ego_rays(recipe: ClipRecipe, clip: ClipRow) -> Float16[np.ndarray, "T 6 H W"]:
    """Rays of every ego frame in the reference exo camera's frame (paper 3.4.2)."""
    world_from_ego, world_from_ref = _poses(clip.ego), _poses(clip.present[0])[0]
    lens = ego_lens(recipe, clip.ego)
    return _half(ego_rays(lens, world_from_ego, world_from_ref, recipe.hw))


def clip_ego_motion_rays(recipe: ClipRecipe, clip: ClipRow) -> Float16[np.ndarray, "T 6 H W"]:
    """Rays of every ego frame in the first ego frame's own: no exo camera has a part in them."""
    world_from_ego = _poses(clip.ego)
    return _half(ego_rays(ego_lens(recipe, clip.ego), world_from_ego, world_from_ego[0], recipe.hw))


def clip_align_rays(recipe: ClipRecipe, clip: ClipRow) -> Float16[np.ndarray, "v 6 h w"]:
    """The first ego frame's rays in each exo camera's frame (paper 3.2); NaN if absent."""
    world_from_exo = torch.stack([_poses(exo)[0] for exo in clip.present])
    latent_hw = recipe.shape.latent().hw
    lens = ego_lens(recipe, clip.ego)
    rays = _half(align_rays(lens, _poses(clip.ego)[0], world_from_exo, latent_hw))
    absent = recipe.views - len(rays)
    return np.pad(rays, [(0, absent), (0, 0), (0, 0), (0, 0)], constant_values=np.nan)


def clip_ego_poses(recipe: ClipRecipe, clip: ClipRow) -> Float32[np.ndarray, "T pose"]:
    """Every ego frame's pose in the reference exo camera's frame: [R | t], row by row, metres."""
    ref_from_world = invert_rigid(_poses(clip.present[0])[0])
    ref_from_ego = compose(ref_from_world, _poses(clip.ego))
    rows = rearrange(ref_from_ego[:, :3], "T row column -> T (row column)")
    return rows.to(torch.float32).numpy()


CLIP_RAYS: Mapping[str, Callable[[ClipRecipe, ClipRow], np.ndarray]] = {
    "align_rays": clip_align_rays,
    "ego_rays": clip_ego_rays,
}
"""By the name of the stored array: what makes a clip's row of it out of its cameras alone."""
CLIP_CAMERAS: Mapping[str, Callable[[ClipRecipe, ClipRow], np.ndarray]] = {
    **CLIP_RAYS,
    "align_points": clip_align_points,
    "ego_motion_rays": clip_ego_motion_rays,
    "ego_poses": clip_ego_poses,
}
"""Those, and the arrays that no store keeps: what `stores.open_store(derive=...)` is given."""


def _poses(camera: CameraRow) -> Tensor:
    return torch.from_numpy(np.array(camera.world_from_cam))


def _half(rays: Tensor) -> np.ndarray:
    return rays.to(torch.float16).numpy()
