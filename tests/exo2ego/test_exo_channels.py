"""Exo videos on channels: absent views, clips without any, and too few views."""

import pytest
import torch

from exo2ego.model.vawan.exo_channels import exo_channels
from stores.errors import ShapeFault


@pytest.fixture
def exo() -> torch.Tensor:
    """Latents of two clips of four views."""
    return torch.randn(2, 4, 16, 3, 2, 5, generator=torch.Generator().manual_seed(1))


def test_an_absent_view_and_a_clip_without_exo_videos_are_zero_and_leave_the_rest(exo):
    absent = exo.clone()
    absent[1, 2] = torch.nan
    whole, got = exo_channels(exo, 4), exo_channels(absent, 4)
    assert torch.equal(got[0], whole[0])
    assert not got[1, 32:48].any() and torch.equal(got[1, :32], whole[1, :32])
    kept = exo_channels(absent, 4, torch.tensor([True, False]))
    assert torch.equal(kept[0], whole[0]) and not kept[1].any()


def test_a_broken_number_inside_a_view_is_not_taken_for_an_absent_view(exo):
    exo[0, 1, 3, 2, 1, 1] = torch.nan
    assert exo_channels(exo, 4).isnan().sum() == 1


def test_fewer_views_than_channels_are_a_fault_with_both_numbers(exo):
    with pytest.raises(ShapeFault, match="at least 4") as fault:
        exo_channels(exo[:, :3], 4)
    assert fault.value.got == 3
