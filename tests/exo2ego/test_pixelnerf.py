"""Pixel-NeRF: sampling at the points, the mean over the views that show one, and rendering."""

import pytest
import torch
from torch.testing import assert_close

from exo2ego.geometry.clip_points import ALIGN_DEPTHS, align_depths
from exo2ego.model.align import PixelNerfSettings, build_align
from exo2ego.model.align.pixelnerf import PixelNerf, render_weights
from exo2ego.model.align.prediction import AlignGiven

SETTINGS = PixelNerfSettings(name="pixelnerf", width=12, encoder_blocks=1)
H, W = 4, 6


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed))


@pytest.fixture
def model() -> PixelNerf:
    built = build_align(SETTINGS, rng())
    assert isinstance(built, PixelNerf)
    return built


def given(v: int = 3) -> AlignGiven:
    points = 2 * torch.rand(2, v, ALIGN_DEPTHS, H, W, 2, generator=rng(3)) - 1
    return AlignGiven(draw(1, 2, v, 16, H, W), draw(2, 2, v, 6, H, W), points)


def test_weights_are_what_gets_through_times_what_stops():
    density = torch.rand(2, 5, 3, 4, generator=rng()) * 3
    depths = torch.tensor([0.2, 0.3, 0.7, 1.0, 4.0])
    weights = render_weights(density, depths)
    left = torch.ones(2, 3, 4)
    for k in range(5):
        stretch = depths[k + 1] - depths[k] if k < 4 else torch.inf
        stopped = 1 - torch.exp(-density[:, k] * stretch)
        assert_close(weights[:, k], left * stopped)
        left = left * (1 - stopped)
    assert_close(weights.sum(dim=1), torch.ones(2, 3, 4))


def test_a_wall_hides_all_behind_it_and_empty_space_shows_the_last_point():
    density = torch.zeros(1, 5, 1, 1)
    depths = torch.linspace(1, 5, 5)
    assert render_weights(density, depths).flatten().tolist() == [0, 0, 0, 0, 1]
    density[0, 2] = 100
    assert_close(render_weights(density, depths).flatten(), torch.tensor([0.0, 0, 1, 0, 0]))


def test_at_the_centre_of_a_cell_is_that_cells_feature(model: PixelNerf):
    one = given(v=2)
    down, right = (2 * torch.arange(H) + 1) / H, (2 * torch.arange(W) + 1) / W
    y, x = torch.meshgrid(down, right, indexing="ij")
    centres = (torch.stack([x, y], dim=-1) - 1).expand(2, 2, ALIGN_DEPTHS, H, W, 2)
    found, seen = model._found(AlignGiven(one.exo_first, one.align_rays, centres))
    features = model.encoder(one.exo_first.flatten(0, 1)).reshape(2, 2, -1, H, W)
    assert seen.all()
    for depth in (0, ALIGN_DEPTHS - 1):
        nearness = align_depths()[0] / align_depths()[depth]
        for view in range(2):
            ray = one.rays[0, view, :, 2, 5]
            known = model.embed(torch.cat([ray, nearness[None].float()]))
            assert_close(found[0, view, depth, 2, 5], features[0, view, :, 2, 5] + known)


def test_a_view_that_shows_nothing_has_no_say(model: PixelNerf):
    one = given()
    blind = one.points.clone()
    blind[:, 1] = torch.nan
    with_it = model(AlignGiven(one.exo_first, one.align_rays, blind)).latent
    arrays = {name: value[:, [0, 2]] for name, value in one.arrays().items()}
    assert_close(with_it, model(AlignGiven(**arrays)).latent)


def test_what_nobody_sees_does_not_depend_on_the_views(model: PixelNerf):
    one = given()
    nowhere = torch.full_like(one.points, torch.nan)
    first = model(AlignGiven(one.exo_first, one.align_rays, nowhere)).latent
    other = model(AlignGiven(draw(7, 2, 3, 16, H, W), one.align_rays, nowhere)).latent
    assert torch.equal(first, other) and first.isfinite().all()


def test_a_cell_depends_on_its_own_ray_and_points_alone(model: PixelNerf):
    one = given()
    rays, points = one.rays.clone(), one.points.clone()
    rays[..., 1, 2] += 1
    points[..., 1, 2, :] *= 0.5
    moved = model(AlignGiven(one.exo_first, rays, points)).latent
    changed = (moved != model(one).latent).any(dim=1)
    expected = torch.zeros(2, H, W, dtype=torch.bool)
    expected[:, 1, 2] = True
    assert torch.equal(changed, expected)
