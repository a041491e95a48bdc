"""VAWAN of Wan's real size, on the meta device: nothing is drawn, and nothing is held in memory."""

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel

from exo2ego.model.given import Given
from exo2ego.model.vawan import NoPoseSettings
from exo2ego.model.vawan.ac3d import Ac3dSettings
from exo2ego.model.vawan.model import Vawan, VawanSettings, build_vawan
from exo2ego.model.vawan.time_and_pose import TimeAndPoseSettings
from exo2ego.model.wan import LoraSettings

D, BLOCKS, COLUMNS = 5120, 40, 64 * 4 * 5120
ALONE, SMALL = NoPoseSettings(), LoraSettings(rank=1, alpha=1)  # the LoRA takes the time


def build(settings: VawanSettings) -> Vawan:
    """VAWAN around a 14B Wan without text."""
    with torch.device("meta"):
        wan = WanTransformer3DModel(in_channels=36, out_channels=16)
    wan.condition_embedder.register_module("text_embedder", torch.nn.Identity())
    return build_vawan(wan, settings, torch.Generator().manual_seed(0))


def trained(vawan: Vawan, part: str = "") -> int:
    """How many numbers train, of parameters with that in their name."""
    of = (p for name, p in vawan.named_parameters() if part in name and p.requires_grad)
    return sum(p.numel() for p in of)


def test_lora_has_the_papers_count_and_beside_it_only_the_new_columns_train():
    vawan = build(VawanSettings(pose=ALONE))
    assert trained(vawan, ".lora_") == 209_715_200
    assert trained(vawan) == 209_715_200 + COLUMNS


def test_whole_is_all_of_wan_but_text_and_what_a_zero_token_cannot_teach():
    vawan = build(VawanSettings(pose=ALONE, training="whole"))
    text, unheard = 47_196_160, BLOCKS * (3 * D**2 + 6 * D)
    assert trained(vawan) == 14_288_901_184 - text - unheard + COLUMNS


@pytest.mark.parametrize(("width", "shared"), [(512, False), (512, True), (2048, False)])
def test_narrow_blocks_have_the_size_of_their_parts(width, shared):
    vawan = build(VawanSettings(lora=SMALL, pose=Ac3dSettings(width=width, shared=shared)))
    projections, table = 2 * width * D + width + D, 6 * width
    attention, feed_forward = 4 * (width**2 + width) + 2 * width, 8 * width**2 + 5 * width
    block = projections + table + attention + feed_forward
    assert trained(vawan, ".side.") == block * (1 if shared else BLOCKS)


@pytest.mark.parametrize("pose", [ALONE, TimeAndPoseSettings(), Ac3dSettings()])
def test_it_runs_without_memory_so_that_its_cost_can_be_told(pose):
    arrays = {"ego_rays": (9, 6, 256, 256), "ego_poses": (9, 12), None: None}
    axes = arrays[pose.reads]
    given = Given(
        torch.empty(3, 16, 3, 32, 32, device="meta"),
        torch.empty(3, 4, 16, 3, 32, 32, device="meta"),
        None if axes is None else torch.empty(3, *axes, device="meta"),
    )
    velocity = build(VawanSettings(lora=SMALL, pose=pose))(
        torch.empty(3, 16, 3, 32, 32, device="meta"), torch.empty(3, device="meta"), given
    )
    assert velocity.shape == (3, 16, 3, 32, 32)
