"""PoseInj, each form: causal, invisible at the start, and alive after the first step."""

import pytest
import torch
from einops import rearrange
from torch.testing import assert_close

from exo2ego.model.folding import fold_frames
from exo2ego.model.poseinj import FORMS, PoseInj, PoseInjSettings, build_pose_inj
from exo2ego.model.poseinj.add import AddSettings
from exo2ego.model.poseinj.concat import ConcatSettings
from exo2ego.model.poseinj.fun_fold import FunFoldSettings
from exo2ego.model.poseinj.per_pixel import PerPixelSettings
from exo2ego.model.wan import load_wan

SETTINGS: dict[str, PoseInjSettings] = {
    "concat": ConcatSettings(latent_width=7, token_width=5),
    "add": AddSettings(latent_width=7),
    "per-pixel": PerPixelSettings(pixel_width=3, latent_width=7, token_width=5),
    "fun-fold": FunFoldSettings(),
}
FEATURES = {"concat": 7, "add": 7, "per-pixel": 7, "fun-fold": 1536}


def rng(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def build(form: str) -> PoseInj:
    """On the small Wan's patch embedding."""
    return build_pose_inj(load_wan("tiny").patch_embedding, SETTINGS[form], rng())


@pytest.fixture(params=SETTINGS)
def form(request: pytest.FixtureRequest) -> str:
    """The name of a form."""
    return request.param


@pytest.fixture
def pose_inj(form: str) -> PoseInj:
    """That form, small."""
    return build(form)


@pytest.fixture
def rays() -> torch.Tensor:
    """Rays of two videos of 9 frames of 16 x 32."""
    return torch.randn(2, 9, 6, 16, 32, generator=rng(1))


def test_every_form_is_tested_here():
    assert {type(settings) for settings in SETTINGS.values()} == set(FORMS)
    assert {settings.name for settings in SETTINGS.values()} == set(SETTINGS)


def test_features_of_latent_frame_j_depend_on_frames_up_to_4j_and_on_all_four(form, pose_inj, rays):
    before = pose_inj.encode(rays)
    assert before.shape == (2, FEATURES[form], 3, 2, 4)
    for frame in range(9):
        moved = rays.clone()
        moved[:, frame] += 1
        changed = (pose_inj.encode(moved) != before).flatten(3).any(dim=-1)[0].any(dim=0)
        first = -(-frame // 4)
        assert not changed[:first].any()
        assert changed[first]


@pytest.mark.parametrize(
    ("frames", "hw", "t"),
    [(1, (16, 32), 1), (5, (64, 96), 2), (9, (16, 32), 3), (17, (128, 128), 5)],
)
def test_any_clip_shape_gives_its_latent_grid(form, pose_inj, frames, hw, t):
    clip = torch.randn(1, frames, 6, *hw, generator=rng(1))
    features = pose_inj.encode(clip)
    assert features.shape == (1, FEATURES[form], t, hw[0] // 8, hw[1] // 8)
    posed = torch.cat([torch.randn(1, 36, *features.shape[2:], generator=rng(2)), features], dim=1)
    assert pose_inj(posed).shape == (1, 48, t, hw[0] // 16, hw[1] // 16)


def test_a_cell_sees_its_own_pixels_alone(pose_inj, rays):
    moved = rays.clone()
    moved[:, 0, 2, 9, 31] += 1
    changed = (pose_inj.encode(moved) != pose_inj.encode(rays)).any(dim=1).any(dim=0).any(dim=0)
    assert changed.nonzero().tolist() == [[1, 3]]


def test_at_the_start_it_is_wans_embedding_bit_for_bit(pose_inj, rays):
    latents = torch.randn(2, 36, 3, 2, 4, generator=rng(2))
    posed = torch.cat([latents, pose_inj.encode(rays)], dim=1)
    assert torch.equal(pose_inj(posed), pose_inj.latents(latents))


def learn(pose_inj: PoseInj, rays: torch.Tensor, steps: int) -> None:
    """A few steps on all but Wan's own embedding; gradients of the last stay."""
    pose_inj.latents.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in pose_inj.parameters() if p.requires_grad], lr=0.1)
    latents = torch.randn(2, 36, 3, 2, 4, generator=rng(2))
    for _ in range(steps):
        optimizer.zero_grad()
        pose_inj(torch.cat([latents, pose_inj.encode(rays)], dim=1)).square().mean().backward()
        optimizer.step()


def test_after_one_step_every_weight_has_a_gradient(pose_inj, rays):
    learn(pose_inj, rays, steps=2)
    trained = [p for p in pose_inj.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.any() for p in trained)


def test_once_learned_tokens_of_latent_frame_j_ignore_frames_after_4j(pose_inj, rays):
    learn(pose_inj, rays, steps=2)
    latents = torch.randn(2, 36, 3, 2, 4, generator=rng(2))

    def tokens(of: torch.Tensor) -> torch.Tensor:
        return pose_inj(torch.cat([latents, pose_inj.encode(of)], dim=1))

    moved = rays.clone()
    moved[:, 5:] += 1
    changed = tokens(moved) != tokens(rays)
    assert not changed[:, :, :2].any() and changed[:, :, 2].any()


def test_its_start_depends_on_the_generator_alone(form, pose_inj):
    torch.manual_seed(8)
    state = torch.get_rng_state()
    again = build(form).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(again[name], value) for name, value in pose_inj.state_dict().items())


def test_per_pixel_is_one_causal_convolution_over_each_pixels_own_sequence(rays):
    encoder = build("per-pixel").rays
    first, second = encoder.pixels[0].conv, encoder.pixels[2].conv
    for row, column in ((0, 0), (9, 31)):
        state = rearrange(rays[:, :, :, row, column], "b T r -> b r T")
        for conv in (first, second):
            padded = torch.nn.functional.pad(state, (2, 0))
            weight = conv.weight[..., 0, 0]
            state = torch.nn.functional.conv1d(padded, weight, conv.bias, stride=2)
            state = torch.nn.functional.silu(state)
        pixels = encoder.pixels(rearrange(rays, "b T r H W -> b r T H W"))
        assert_close(pixels[..., row, column], state)


def test_folding_puts_a_latent_frames_source_frames_side_by_side():
    frames = torch.arange(9.0).reshape(1, 9, 1)
    expected = torch.tensor([[0.0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]])
    assert torch.equal(fold_frames(frames)[0], expected)
    video = torch.randn(2, 5, 3, 4, 6, generator=rng())
    assert torch.equal(fold_frames(video)[:, 1, 3:6], video[:, 2])
