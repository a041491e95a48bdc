"""VAWAN: invisible at the start, its channels, what trains, checkpointing, sampling."""

import inspect
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from exo2ego.model.condition import with_mask
from exo2ego.model.flow import SamplerSettings, make_scheduler
from exo2ego.model.given import Given
from exo2ego.model.sampling import VideoGenerator, sample
from exo2ego.model.vawan import NoPoseSettings, PoseSettings
from exo2ego.model.vawan.ac3d import Ac3dSettings, SideBlock, WidthFault
from exo2ego.model.vawan.model import Training, Vawan, VawanSettings, build_vawan
from exo2ego.model.vawan.time_and_pose import TimeAndPoseSettings
from exo2ego.model.wan import LoraSettings, load_wan
from exo2ego.training.build import train_in_fp32
from stores.errors import ShapeFault

POSES: dict[str, PoseSettings] = {
    "none": NoPoseSettings(),
    "time_and_pose": TimeAndPoseSettings(width=10),
    "ac3d": Ac3dSettings(width=24, latent_width=6),
    "ac3d-shared": Ac3dSettings(width=36, latent_width=6, shared=True),
}
SIGMA = torch.tensor([0.3, 0.8])
ZERO_TOKEN = torch.zeros(2, 1, 48)


def rng(seed: int = 0) -> torch.Generator:
    """A generator on the CPU."""
    return torch.Generator().manual_seed(seed)


def build(
    pose: str = "none", training: Training = "lora", dtype: torch.dtype = torch.float32, **more
) -> Vawan:
    """A small VAWAN of four views."""
    lora = LoraSettings(rank=3, alpha=3)
    settings = VawanSettings(training=training, lora=lora, pose=POSES[pose], **more)
    return build_vawan(load_wan("tiny", dtype=dtype), settings, rng())


def clips(pose: str = "none", frames: int = 9, hw: tuple[int, int] = (16, 32)) -> Given:
    """What a model knows of two clips."""
    g, latent = rng(1), (1 + (frames - 1) // 4, hw[0] // 8, hw[1] // 8)
    condition = torch.randn(2, 16, *latent, generator=g)
    exo_latents = torch.randn(2, 4, 16, *latent, generator=g)
    arrays = {
        None: None,
        "ego_poses": torch.randn(2, frames, 12, generator=g),
        "ego_rays": torch.randn(2, frames, 6, *hw, generator=g),
    }
    return Given(condition, exo_latents, arrays[POSES[pose].reads])


def noise_for(given: Given) -> torch.Tensor:
    """Noise of two clips."""
    return torch.randn(given.condition.shape, generator=rng(2))


def trained(vawan: Vawan) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in vawan.named_parameters() if p.requires_grad}


def disturb(vawan: Vawan) -> Vawan:
    """Moves everything that trains, as training would."""
    g = rng(3)
    for parameter in trained(vawan).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    return vawan


@pytest.mark.parametrize("shape", [(9, (16, 32)), (5, (64, 96)), (17, (128, 128))])
@pytest.mark.parametrize("pose", POSES)
def test_at_the_start_the_output_is_bare_wans_bit_for_bit(pose, shape):
    given = clips(pose, *shape)
    noise, latents = noise_for(given), with_mask(given.condition)
    with torch.no_grad():
        expected = load_wan("tiny")(
            torch.cat([noise, latents], dim=1), 1000 * SIGMA, ZERO_TOKEN, return_dict=False
        )[0]
        assert torch.equal(build(pose)(noise, SIGMA, given), expected)


@pytest.mark.parametrize("pose", ["time_and_pose", "ac3d", "ac3d-shared"])
def test_a_pose_that_was_learned_changes_the_output_and_later_ones_not_earlier_features(pose):
    vawan, given = disturb(build(pose)), clips(pose)
    noise, features = noise_for(given), vawan.pose.encode(given.pose)
    features = features.unflatten(1, (3, -1))
    for frame in range(9):
        moved = given.pose.clone()
        moved[:, frame] += 1
        assert not torch.equal(
            vawan(noise, SIGMA, replace(given, pose=moved)), vawan(noise, SIGMA, given)
        )
        changed = (vawan.pose.encode(moved).unflatten(1, (3, -1)) != features).flatten(2)
        first = -(-frame // 4)
        assert changed[:, first].any() and not changed[:, :first].any()


def test_a_time_of_ones_own_reaches_the_tokens_of_its_frame_alone():
    """Without blocks a token sees its own modulation and nothing else."""
    vawan, given = disturb(build("time_and_pose")), clips("time_and_pose")
    vawan.wan.blocks = torch.nn.ModuleList()
    moved = given.pose.clone()
    moved[:, 5:] += 1
    noise = noise_for(given)
    changed = vawan(noise, SIGMA, replace(given, pose=moved)) != vawan(noise, SIGMA, given)
    assert not changed[:, :, :2].any() and changed[:, :, 2].all()


@pytest.mark.parametrize(
    ("layout", "views", "channels", "columns"),
    [("with-image", 4, 100, 64), ("exo-only", 4, 80, 64), ("with-image", 1, 52, 16)],
)
def test_channels_are_those_of_the_layout(layout, views, channels, columns):
    vawan, given = build(layout=layout, views=views), clips()
    embedding = vawan.wan.patch_embedding
    assert (embedding.in_channels, embedding.exo.weight.shape[1]) == (channels, columns)
    assert 16 + vawan.known_channels(given).shape[1] == channels


def test_the_summed_embedding_is_the_widened_convolution():
    vawan, given = disturb(build()), clips()
    embedding = vawan.wan.patch_embedding
    channels = torch.cat([noise_for(given), vawan.known_channels(given)], dim=1)
    wide = torch.nn.Conv3d(100, 48, (1, 2, 2), (1, 2, 2))
    weight = torch.cat([embedding.latents.weight, embedding.exo.weight], dim=1)
    wide.load_state_dict({"weight": weight, "bias": embedding.latents.bias})
    assert_close(embedding(channels), wide(channels))


def test_without_image_noisy_columns_are_wans_and_the_condition_is_not_looked_at():
    vawan, given = build(layout="exo-only"), clips()
    noise, blind = noise_for(given), torch.zeros(2, 20, 3, 2, 4)
    expected = load_wan("tiny")(torch.cat([noise, blind], dim=1), 1000 * SIGMA, ZERO_TOKEN)[0]
    assert_close(vawan(noise, SIGMA, given), expected)
    other = replace(given, condition=given.condition + 1)
    assert torch.equal(vawan(noise, SIGMA, other), vawan(noise, SIGMA, given))


def test_the_order_of_the_views_matters_once_columns_are_learned():
    vawan, given = disturb(build()), clips()
    turned = replace(given, exo_latents=given.exo_latents[:, [1, 0, 2, 3]])
    noise = noise_for(given)
    assert not torch.equal(vawan(noise, SIGMA, turned), vawan(noise, SIGMA, given))


def test_only_the_first_views_are_seen():
    vawan, given = disturb(build(views=2)), clips()
    noise, others = noise_for(given), given.exo_latents.clone()
    others[:, 2:] = torch.nan
    other = replace(given, exo_latents=others)
    assert torch.equal(vawan(noise, SIGMA, other), vawan(noise, SIGMA, given))


def test_a_width_that_heads_do_not_divide_is_a_fault_with_the_next_that_fits():
    settings = VawanSettings(pose=Ac3dSettings(width=30))
    with pytest.raises(WidthFault, match="multiple of 12") as fault:
        build_vawan(load_wan("tiny"), settings, rng())
    assert fault.value.fix == "Use 24."


def test_a_pose_is_given_if_and_only_if_it_is_taken():
    given = clips("ac3d")
    with pytest.raises(ValueError, match="no pose"):
        build()(noise_for(given), SIGMA, given)
    with pytest.raises(ValueError, match="ego_rays"):
        build("ac3d")(noise_for(given), SIGMA, replace(given, pose=None))


@pytest.mark.parametrize(
    ("pose", "message"), [("time_and_pose", "poses of 2"), ("ac3d", "rays for 4 tokens")]
)
def test_poses_of_another_clip_shape_are_a_fault_with_both_numbers(pose, message):
    given, other = clips(pose), clips(pose, frames=5)
    with pytest.raises(ShapeFault, match=message) as fault:
        build(pose)(noise_for(given), SIGMA, replace(given, pose=other.pose))
    assert "3" in str(fault.value.expected)


@pytest.mark.parametrize(
    ("pose", "kinds"),
    [
        ("none", {"lora": 16, "patch_embedding.exo.weight": 1}),
        ("time_and_pose", {"lora": 16, "patch_embedding.exo.weight": 1, "pose.poses.": 4}),
        ("ac3d", {"lora": 16, "patch_embedding.exo.weight": 1, "pose.": 10, ".side.": 38}),
        ("ac3d-shared", {"lora": 16, "patch_embedding.exo.weight": 1, "pose.": 10, ".side.": 19}),
    ],
)
def test_with_lora_these_parameters_train_and_no_others(pose, kinds):
    names = set(trained(build(pose)))
    assert {kind: sum(kind in name for name in names) for kind in kinds} == kinds
    assert len(names) == sum(kinds.values())


def test_whole_training_has_no_lora_and_leaves_out_only_what_a_zero_token_cannot_teach():
    vawan = build("ac3d", "whole")
    frozen = {name for name, p in vawan.named_parameters() if not p.requires_grad}
    assert not any("lora" in name for name, _ in vawan.named_parameters())
    expected = {"norm2.weight", "norm2.bias", "attn2.norm_q.weight", "attn2.norm_k.weight"}
    expected |= {f"attn2.to_{of}.{part}" for of in "qk" for part in ("weight", "bias")}
    expected |= {"attn2.to_v.weight"}
    assert frozen == {f"wan.blocks.{block}.{name}" for block in (0, 1) for name in expected}


@pytest.mark.parametrize("training", ["lora", "whole"])
@pytest.mark.parametrize("pose", POSES)
def test_every_trained_parameter_learns_after_the_first_step(pose, training):
    vawan, given = build(pose, training), clips(pose)
    optimizer = torch.optim.SGD(trained(vawan).values(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        vawan(noise_for(given), SIGMA, given).square().mean().backward()
        optimizer.step()
    dead = {n for n, p in trained(vawan).items() if p.grad is None or p.grad.abs().max() < 1e-9}
    # A constant on all keys of a row leaves its softmax as it was.
    assert not {name for name in dead if not name.endswith("to_k.bias")}


@pytest.mark.parametrize("pose", POSES)
def test_checkpointing_leaves_output_and_gradients_as_they_are(pose):
    plain, checkpointed, given = disturb(build(pose)), disturb(build(pose)), clips(pose)
    checkpointed.wan.enable_gradient_checkpointing()
    outputs = [vawan(noise_for(given), SIGMA, given) for vawan in (plain, checkpointed)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().mean().backward()
    gradients = trained(checkpointed)
    for name, parameter in trained(plain).items():
        assert_close(gradients[name].grad, parameter.grad)


@pytest.mark.parametrize("pose", ["time_and_pose", "ac3d", "ac3d-shared"])
def test_compiled_blocks_give_the_same(pose, monkeypatch):
    # torch cannot trace the tests' own check of shapes; this is the method without it
    monkeypatch.setattr(SideBlock, "forward", inspect.unwrap(SideBlock.forward))
    vawan, given = disturb(build(pose)), clips(pose)
    with torch.no_grad():
        expected = vawan(noise_for(given), SIGMA, given)
        vawan.wan.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
        assert_close(vawan(noise_for(given), SIGMA, given), expected)


def test_a_narrow_block_sees_the_hidden_state_and_a_shared_one_is_one():
    apart, shared = build("ac3d"), build("ac3d-shared")
    sides = [block.side for block in apart.wan.blocks]
    assert sides[0] is not sides[1]
    assert not torch.equal(sides[0].compress.weight, sides[1].compress.weight)
    assert shared.wan.blocks[0].side is shared.wan.blocks[1].side


def test_wans_own_names_stay_but_for_what_is_replaced():
    names = {f"wan.{name}" for name, _ in load_wan("tiny").named_parameters()}
    ours = {name.replace(".base_layer", "") for name, _ in build("ac3d").named_parameters()}
    assert {name for name in names - ours if "patch_embedding" not in name} == set()


@pytest.mark.parametrize("pose", POSES)
def test_in_bfloat16_it_is_nearly_the_same_and_answers_in_float32(pose):
    given = clips(pose)
    half, whole = build(pose, dtype=torch.bfloat16), build(pose)
    velocity = half(noise_for(given), SIGMA, given)
    assert velocity.dtype == torch.float32
    assert_close(velocity, whole(noise_for(given), SIGMA, given), rtol=0, atol=0.05)
    disturb(half)
    assert half(noise_for(given), SIGMA, given).isfinite().all()


@pytest.mark.parametrize("training", ["lora", "whole"])
@pytest.mark.parametrize("pose", POSES)
def test_trained_in_bfloat16_what_trains_and_its_gradients_are_float32(pose, training):
    given, whole = clips(pose), disturb(build(pose, training))
    half = build(pose, training, torch.bfloat16)
    train_in_fp32(half)
    disturb(half).wan.enable_gradient_checkpointing()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        velocity = half(noise_for(given), SIGMA, given)
        velocity.square().mean().backward()
    expected = whole(noise_for(given), SIGMA, given)
    assert (velocity - expected).norm() < 0.02 * expected.norm()
    for parameter in trained(half).values():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
        assert (parameter.dtype, parameter.grad.dtype) == (torch.float32, torch.float32)


def test_its_start_depends_on_the_generator_alone():
    first = build("ac3d").state_dict()
    torch.manual_seed(8)
    state = torch.get_rng_state()
    again = build("ac3d").state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(again[name], value) for name, value in first.items())


@pytest.mark.parametrize("guidance", [1.0, 3.5])
@pytest.mark.parametrize("pose", POSES)
def test_sampling_is_the_solver_on_the_guided_velocity(pose, guidance):
    vawan, given = disturb(build(pose)), clips(pose)
    given.exo_latents[1, 2] = torch.nan
    scheduler, x = make_scheduler(4, 5.0), noise_for(given)
    nobody = replace(given, keep_exo=torch.tensor([False, False]))
    for timestep in scheduler.timesteps:
        sigma = (timestep / 1000).expand(2)
        with torch.no_grad():
            told, none = vawan(x, sigma, given), vawan(x, sigma, nobody)
        x = scheduler.step(none + guidance * (told - none), timestep, x).prev_sample
    assert isinstance(vawan, VideoGenerator)
    ours = sample(vawan, given, noise_for(given), SamplerSettings(steps=4, guidance=guidance))
    assert_close(ours, x, rtol=0, atol=1e-4)


def test_a_step_does_not_encode_the_poses_again():
    vawan, given, calls = build("ac3d"), clips("ac3d"), []
    vawan.pose.rays.register_forward_hook(lambda *_: calls.append(1))
    sample(vawan, given, noise_for(given), SamplerSettings(steps=3))
    assert len(calls) == 1
