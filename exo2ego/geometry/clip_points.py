"""Where points along the rays of a clip's first ego frame are in its exo views (for Pixel-NeRF)."""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from exo2ego.geometry.camera import compose, invert_rigid, rotate_directions
from exo2ego.geometry.clip_lenses import ExoView, ego_lens, exo_view
from exo2ego.geometry.lenses import pixel_centres
from stores.index import CameraRow, ClipRow
from stores.recipe import ClipRecipe

ALIGN_DEPTHS = 32
"""Points a ray. Choice: the paper gives no number."""
NEAREST_METRES = 0.2
"""Of the first point. Choice: a wearer's hands are hardly nearer to the eyes."""
FARTHEST_METRES = 10.0
"""Of the last point. Choice: Ego-Exo4D's exo cameras stand within about that of the wearer."""


def align_depths() -> Float64[Tensor, " depth"]:
    """Metres from the ego camera along each ray, nearest first.

    Choice: even steps of 1 / distance, so that a step moves a point by about as much in an image
    whether it is at the hands or at the wall.
    """
    steps = torch.linspace(1 / NEAREST_METRES, 1 / FARTHEST_METRES, ALIGN_DEPTHS)
    return 1 / steps.to(torch.float64)


def clip_align_points(recipe: ClipRecipe, clip: ClipRow) -> Float32[np.ndarray, "v depth h w xy"]:
    """(x, y) in each exo frame of points along the first ego frame's rays, one ray a latent cell.

    -1 to 1 from edge to edge of the clip's frames; NaN where the view does not show the point,
    where the ego lens has no ray, and for absent views.
    """
    latent_hw = recipe.shape.latent().hw
    lens = ego_lens(recipe, clip.ego).resized(latent_hw)
    directions, has_ray = lens.unproject(pixel_centres(latent_hw))
    directions = torch.where(rearrange(has_ray, "h w -> h w 1"), directions, torch.nan)
    world_from_ego = _first_pose(clip.ego)
    views = []
    for exo in clip.present:
        exo_from_ego = compose(invert_rigid(_first_pose(exo)), world_from_ego)
        views.append(_seen_by(exo_view(recipe, exo), exo_from_ego, directions))
    points = torch.stack(views).to(torch.float32).numpy()
    absent = [(0, recipe.views - len(points)), *[(0, 0)] * (points.ndim - 1)]
    return np.pad(points, absent, constant_values=np.nan)


def _seen_by(
    view: ExoView, exo_from_ego: Float[Tensor, "4 4"], directions_ego: Float[Tensor, "h w 3"]
) -> Float[Tensor, "depth h w 2"]:
    """Where one view shows the points along these rays, NaN where it does not."""
    pose = rearrange(exo_from_ego, "i j -> 1 1 i j")
    directions = rearrange(rotate_directions(pose, directions_ego), "h w xyz -> 1 h w xyz")
    depths = rearrange(align_depths(), "depth -> depth 1 1 1")
    pixels, seen = view.project(exo_from_ego[:3, 3] + depths * directions)
    rows, columns = view.hw
    points = 2 * pixels / torch.tensor([columns, rows], dtype=pixels.dtype) - 1
    return torch.where(rearrange(seen, "depth h w -> depth h w 1"), points, torch.nan)


def _first_pose(camera: CameraRow) -> Float[Tensor, "4 4"]:
    return torch.from_numpy(np.array(camera.world_from_cam[0]))
