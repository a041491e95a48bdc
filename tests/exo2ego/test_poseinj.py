"""PoseInj: causal, invisible at the start, and alive after the first step."""

import pytest
import torch

from exo2ego.model.poseinj import PoseInj, PoseInjSettings
from exo2ego.model.wan import load_wan

SETTINGS = PoseInjSettings(latent_width=7, token_width=5)


def rng(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def pose_inj() -> PoseInj:
    """On the small Wan's patch embedding."""
    return PoseInj(load_wan("tiny").patch_embedding, SETTINGS, rng())


@pytest.fixture
def rays() -> torch.Tensor:
    """Rays of two videos of 9 frames of 16 x 32."""
    return torch.randn(2, 9, 6, 16, 32, generator=rng(1))


def test_features_of_latent_frame_j_depend_on_frames_up_to_4j_and_on_all_four(pose_inj, rays):
    before = pose_inj.encode(rays)
    assert before.shape == (2, 7, 3, 2, 4)
    for frame in range(9):
        moved = rays.clone()
        moved[:, frame] += 1
        changed = (pose_inj.encode(moved) != before).flatten(3).any(dim=-1)[0].any(dim=0)
        first = -(-frame // 4)
        assert not changed[:first].any()
        assert changed[first]


@pytest.mark.parametrize(("frames", "t"), [(1, 1), (5, 2), (13, 4)])
def test_any_4k_plus_1_frames_give_the_latent_frames(pose_inj, rays, frames, t):
    clip = rays[:, :1].repeat(1, frames, 1, 1, 1)
    assert pose_inj.encode(clip).shape[2] == t


def test_a_cell_sees_its_own_pixels_alone(pose_inj, rays):
    moved = rays.clone()
    moved[:, 0, 2, 9, 31] += 1
    changed = (pose_inj.encode(moved) != pose_inj.encode(rays)).any(dim=1).any(dim=0).any(dim=0)
    assert changed.nonzero().tolist() == [[1, 3]]


def test_at_the_start_it_is_wans_embedding_bit_for_bit(pose_inj, rays):
    latents = torch.randn(2, 36, 3, 2, 4, generator=rng(2))
    posed = torch.cat([latents, pose_inj.encode(rays)], dim=1)
    assert torch.equal(pose_inj(posed), pose_inj.latents(latents))


def test_after_one_step_every_weight_has_a_gradient(pose_inj, rays):
    pose_inj.latents.requires_grad_(False)
    trained = [p for p in pose_inj.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    latents = torch.randn(2, 36, 3, 2, 4, generator=rng(2))
    for _ in range(2):
        optimizer.zero_grad()
        posed = torch.cat([latents, pose_inj.encode(rays)], dim=1)
        pose_inj(posed).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in trained)


def test_its_start_depends_on_the_generator_alone(pose_inj):
    torch.manual_seed(8)
    state = torch.get_rng_state()
    again = PoseInj(load_wan("tiny").patch_embedding, SETTINGS, rng())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.tokens.weight, pose_inj.tokens.weight)
