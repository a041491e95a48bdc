"""Points along the ego rays in the exo views: by hand too, and where none is seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from exo2ego.geometry.camera import look_at
from exo2ego.geometry.clip_lenses import exo_view
from exo2ego.geometry.clip_points import (
    ALIGN_DEPTHS,
    FARTHEST_METRES,
    NEAREST_METRES,
    align_depths,
    clip_align_points,
)
from exo2ego.geometry.clip_rays import CLIP_CAMERAS, clip_align_rays
from stores.index import CameraRow, ClipRow
from stores.recipe import ClipRecipe
from stores.schema import CAMERA_ARRAYS

RECIPE = ClipRecipe(frames=5, views=3, min_views=1, hw=(32, 48))
BEND = (0.036902, 0.057131, -0.057154, 0.018458)
EGO_STANDS, EGO_LOOKS = (0.1, -0.2, 1.6), (0.4, 0.9, 1.0)
EXOS = {  # where each stands; all look at the wearer's hands
    "cam01": (2.5, 1.5, 1.4),
    "cam02": (-2.0, 2.5, 1.1),
    "cam03": (0.3, 3.5, 2.0),
}
HANDS = (0.3, 0.4, 1.1)


def pose(eye: tuple[float, ...], target: tuple[float, ...]) -> np.ndarray:
    places = (torch.tensor(place, dtype=torch.float64) for place in (eye, target, (0, 0, 1.0)))
    return look_at(*places).numpy()[None]


def clip(lens: str = "pinhole") -> ClipRow:
    """One clip with three exo cameras that look at the wearer's hands."""
    bend = BEND if lens == "kannala_brandt" else ()
    params, hw = (70.0, 66.0, 63.0, 37.0, *bend), (72, 128)
    ego = CameraRow(
        "aria01", "", "pinhole", (75.0, 75.0, 24.0, 16.0), (32, 48), 0, pose(EGO_STANDS, EGO_LOOKS)
    )
    exos = [CameraRow(c, "", lens, params, hw, 0, pose(at, HANDS)) for c, at in EXOS.items()]
    return ClipRow("a", "a", "", "", "", "Bike", "train", (0,), ego, tuple(exos), ())


def by_hand(row: ClipRow, exo: int, depth: int, cell: tuple[int, int]) -> np.ndarray:
    """The point's place in the exo frame by matrices and, for the fisheye, OpenCV's formula."""
    height, width = RECIPE.hw
    focal = RECIPE.ego_focal_per_side
    x = ((cell[1] + 0.5) * 8 - width / 2) / (focal * width)
    y = ((cell[0] + 0.5) * 8 - height / 2) / (focal * height)
    metres = 1 / np.linspace(1 / NEAREST_METRES, 1 / FARTHEST_METRES, ALIGN_DEPTHS)[depth]
    point = np.append(metres * np.array([x, y, 1]) / np.sqrt(x * x + y * y + 1), 1)
    camera = row.exos[exo]
    assert camera is not None
    exo_from_ego = np.linalg.inv(camera.world_from_cam[0]) @ row.ego.world_from_cam[0]
    px, py, pz, _ = exo_from_ego @ point
    fx, fy, cx, cy, *bend = camera.params
    a, b = px / pz, py / pz
    if bend:
        radius = np.hypot(a, b)
        angle = np.arctan(radius)
        bent = angle * (1 + sum(k * angle ** (2 * n + 2) for n, k in enumerate(bend)))
        a, b = a * bent / radius, b * bent / radius
    seen = pz > 0 and 0 <= fx * a + cx <= 128 and 0 <= fy * b + cy <= 72
    return (
        np.array([2 * (fx * a + cx) / 128 - 1, 2 * (fy * b + cy) / 72 - 1])
        if seen
        else np.full(2, np.nan)
    )


@pytest.mark.parametrize("lens", ["pinhole", "kannala_brandt"])
def test_points_are_where_projection_by_hand_puts_them(lens: str):
    row = clip(lens)
    points = clip_align_points(RECIPE, row)
    assert points.shape == (3, ALIGN_DEPTHS, 4, 6, 2) and points.dtype == np.float32
    expected = [
        [
            [[by_hand(row, exo, depth, (y, x)) for x in range(6)] for y in range(4)]
            for depth in range(ALIGN_DEPTHS)
        ]
        for exo in range(3)
    ]
    np.testing.assert_allclose(points, np.array(expected), atol=1e-5)
    seen = np.isfinite(points).all(-1)
    assert 0.2 < seen.mean() < 0.95  # both happen


def test_depths_are_even_in_one_over_distance():
    steps = (1 / align_depths()).diff()
    assert torch.allclose(steps, steps[:1].expand_as(steps), rtol=1e-5)
    assert align_depths()[0].item() == pytest.approx(NEAREST_METRES)
    assert align_depths()[-1].item() == pytest.approx(FARTHEST_METRES)


def test_the_points_of_a_cell_lie_on_its_ray():
    """A point's moment about the exo camera is that of the ray: p x d = m."""
    row = clip()
    rays, points = clip_align_rays(RECIPE, row), clip_align_points(RECIPE, row)
    camera = row.exos[1]
    assert camera is not None
    fx, fy, cx, cy = camera.params
    moment, direction = rays[1, :3].astype(float), rays[1, 3:].astype(float)
    across = (points[1, ..., 0] + 1) / 2 * 128
    down = (points[1, ..., 1] + 1) / 2 * 72
    towards = np.stack([(across - cx) / fx, (down - cy) / fy, np.ones_like(across)])
    # Camera, point and ray lie in one plane, whose normal is the moment.
    miss = (towards * moment[:, None]).sum(0) / np.linalg.norm(moment, axis=0)
    assert np.nanmax(np.abs(miss)) < 5e-3
    assert np.isfinite(miss).any() and direction.shape == moment.shape


def test_nothing_is_seen_behind_a_camera_or_beside_its_picture():
    row = clip()
    ahead, behind = row.exos[0], pose(EXOS["cam01"], (5.0, 3.4, 1.7))
    assert ahead is not None
    turned = replace(row, exos=(replace(ahead, world_from_cam=behind), *row.exos[1:]))
    points, near = clip_align_points(RECIPE, turned), (align_depths() < 1.5).numpy()
    assert np.isnan(points[0, near]).all() and not np.isnan(points[1]).all()
    assert np.nanmax(np.abs(points)) <= 1 + 1e-6


def test_a_view_that_is_absent_shows_nothing():
    row = clip()
    points = clip_align_points(RECIPE, replace(row, exos=(*row.exos[:2], None)))
    assert np.isnan(points[2]).all()
    np.testing.assert_array_equal(points[:2], clip_align_points(RECIPE, row)[:2])


def test_cells_without_a_ray_have_no_points():
    """The corners of a raw fisheye are beyond what the lens maps."""
    bent = (12.0, 12.0, 24.0, 16.0, 0.0, -0.06, 0.0, 0.0)
    row, recipe = clip(), RECIPE.model_copy(update={"ego_lens": "fisheye"})
    raw = replace(row, ego=replace(row.ego, lens="kannala_brandt", params=bent))
    rays, points = clip_align_rays(recipe, raw), clip_align_points(recipe, raw)
    blind = (rays[0] == 0).all(0)
    assert blind.any() and not blind.all()
    assert np.isnan(points[:, :, blind]).all() and np.isfinite(points[:, :, ~blind]).any()


def test_what_makes_them_is_registered_under_their_name():
    assert set(CAMERA_ARRAYS) <= set(CLIP_CAMERAS)
    assert CLIP_CAMERAS["align_points"] is clip_align_points


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_what_a_fit_cuts_off_is_not_seen(fit: str):
    recipe = RECIPE.model_copy(update={"exo_fit": fit, "hw": (48, 48)})
    camera = clip().exos[0]
    assert camera is not None
    view = exo_view(recipe, camera)
    near_left_edge = torch.tensor([[(2.0 - 63.0) / 70.0, 0.0, 1.0]], dtype=torch.float64)
    pixels, seen = view.project(near_left_edge)
    assert bool(seen) is (fit != "crop")
    expected = {"squash": (2 / 128 * 48, 37 / 72 * 48), "pad": (2 / 128 * 48, 10 + 37 * 48 / 128)}
    if fit in expected:
        bars = (48 - round(72 * 48 / 128)) // 2
        assert bars == 10
        assert pixels[0].tolist() == pytest.approx(expected[fit], abs=0.02)
