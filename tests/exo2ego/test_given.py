"""What a generator is given: what does not fit is refused, with both numbers."""

from dataclasses import replace

import jaxtyping
import pytest
import torch

from exo2ego.model.given import Given, check_given, check_numbers, check_pose, check_rays
from stores.errors import ShapeFault

GIVEN = Given(torch.zeros(2, 16, 3, 4, 6), torch.zeros(2, 3, 16, 3, 4, 6))


@pytest.mark.parametrize(
    ("condition", "exo"),
    [((16, 3, 4, 6), (16, 2, 4, 6)), ((16, 3, 4, 6), (16, 3, 6, 4)), ((5, 3, 4, 6), (5, 3, 4, 6))],
)
def test_latents_of_other_grids_or_channels_are_refused(
    condition: tuple, exo: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as it is outside tests
    with pytest.raises(ShapeFault) as fault:
        check_given(Given(torch.zeros(2, *condition), torch.zeros(2, 3, *exo)))
    assert str(condition) in str(fault.value) and str(exo) in str(fault.value)


def test_a_grid_that_patches_do_not_fit_is_refused() -> None:
    with pytest.raises(ShapeFault, match="divisible by 2"):
        check_given(Given(torch.zeros(2, 16, 3, 4, 5), torch.zeros(2, 3, 16, 3, 4, 5)))
    check_given(GIVEN)


def test_a_pose_is_given_if_and_only_if_it_is_read() -> None:
    rays = replace(GIVEN, pose=torch.zeros(2, 9, 6, 32, 48))
    with pytest.raises(ShapeFault, match="no pose"):
        check_pose(rays, None)
    with pytest.raises(ShapeFault, match="ego_rays"):
        check_pose(GIVEN, "ego_rays")
    check_pose(rays, "ego_rays")


@pytest.mark.parametrize("shape", [(5, 6, 32, 48), (9, 6, 48, 32), (9, 6, 4, 6)])
def test_rays_of_another_grid_are_refused_with_both_numbers(shape: tuple) -> None:
    check_rays(torch.zeros(2, 9, 6, 32, 48), GIVEN)
    with pytest.raises(ShapeFault, match=r"\(9, 32, 48\)") as fault:
        check_rays(torch.zeros(2, *shape), GIVEN)
    assert str((shape[0], *shape[2:])) in str(fault.value)


@pytest.mark.parametrize("name", ["condition", "exo_latents", "pose"])
def test_numbers_that_are_none_are_refused_by_clip(name: str) -> None:
    given = replace(GIVEN, pose=torch.zeros(2, 9, 6, 32, 48))
    check_numbers(given)
    bad = getattr(given, name).clone()
    bad[1].view(-1)[7] = torch.nan
    with pytest.raises(ShapeFault, match=f"{name}, clip 1"):
        check_numbers(replace(given, **{name: bad}))


def test_a_view_that_is_wholly_absent_is_no_fault() -> None:
    exo = GIVEN.exo_latents.clone()
    exo[1, 2] = torch.nan
    check_numbers(replace(GIVEN, exo_latents=exo))
