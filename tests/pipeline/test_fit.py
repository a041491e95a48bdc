"""Claims about how exo frames meet a clip's size and lens: geometry/fit.py, pipeline/fit.py."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from exo2ego.geometry.clip_lenses import exo_view, video_lens
from exo2ego.geometry.fit import FITS, Fit, undistorted_pinhole
from exo2ego.geometry.lenses import KannalaBrandt, Pinhole, Turned, pixel_centres
from pipeline.fit import FrameMaker
from pipeline.video import Resampler
from stores.index import CameraRow
from stores.recipe import ClipRecipe

BEND = (0.036902, 0.057131, -0.057154, 0.018458)
HW = (36, 64)


def gopro(hw: tuple[int, int] = HW) -> CameraRow:
    focal_px = 0.458 * max(hw)
    params = (focal_px, focal_px, hw[1] / 2, hw[0] / 2, *BEND)
    return CameraRow("cam01", "a.mp4", "kannala_brandt", params, hw, 0, np.eye(4)[None])


def stripes(hw: tuple[int, int]) -> torch.Tensor:
    """A frame whose red is the column and whose green is the row."""
    y, x = torch.meshgrid(torch.arange(hw[0]), torch.arange(hw[1]), indexing="ij")
    return torch.stack([x, y, torch.full_like(x, 200)], dim=-1).to(torch.uint8)[None]


@pytest.mark.parametrize(
    ("name", "source_hw", "expected"),
    [
        ("squash", (448, 796), Fit((448, 796), (256, 256))),
        ("crop", (448, 796), Fit((448, 448), (256, 256))),
        ("crop", (796, 448), Fit((448, 448), (256, 256))),
        ("pad", (448, 796), Fit((448, 796), (144, 256))),
        ("pad", (796, 448), Fit((796, 448), (256, 144))),
    ],
)
def test_a_fit_shows_a_part_at_a_size(name: str, source_hw: tuple[int, int], expected: Fit) -> None:
    assert FITS[name](source_hw, (256, 256)) == expected


def test_squash_is_what_it_always_was() -> None:
    frames = torch.randint(0, 256, (2, *HW, 3), dtype=torch.uint8, generator=torch.Generator())
    maker = FrameMaker(ClipRecipe(hw=(32, 48)), gopro(), is_ego=False)
    assert torch.equal(maker(frames), Resampler(HW, (32, 48))(frames))


def test_crop_keeps_the_middle_and_square_pixels() -> None:
    shown = FrameMaker(ClipRecipe(hw=(36, 36), exo_fit="crop"), gopro(), is_ego=False)(stripes(HW))
    assert torch.equal(shown, stripes(HW)[:, :, 14:50])


def test_pad_shows_all_in_the_middle_of_black() -> None:
    shown = FrameMaker(ClipRecipe(hw=(64, 64), exo_fit="pad"), gopro(), is_ego=False)(stripes(HW))
    assert torch.equal(shown[:, 14:50], stripes(HW))
    assert not shown[:, :14].any() and not shown[:, 50:].any()


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_a_world_point_lands_where_the_undistorted_pinhole_puts_it(fit: str) -> None:
    camera, recipe = gopro((270, 480)), ClipRecipe(hw=(96, 128), exo_fit=fit, exo_lens="pinhole")
    lens = KannalaBrandt(*camera.params, hw=camera.hw)
    axis = torch.tensor([0.35, -0.2, 1.0], dtype=torch.float64)
    axis = axis / axis.norm()
    directions, _ = lens.unproject(pixel_centres(camera.hw))
    glow = 255 * (-(directions - axis).square().sum(-1) / 0.05**2).exp()
    frame = glow.round().to(torch.uint8)[None, ..., None].expand(1, *camera.hw, 3).contiguous()
    shown = FrameMaker(recipe, camera, is_ego=False)(frame)[0, ..., 0].double()
    found = (pixel_centres(recipe.hw) * shown[..., None]).sum((0, 1)) / shown.sum()
    pixel, _ = undistorted_pinhole(lens, 0.8).project(axis)
    part = FITS[fit](camera.hw, recipe.hw)
    cut = torch.tensor([(480 - part.part_hw[1]) // 2, (270 - part.part_hw[0]) // 2])
    bars = torch.tensor([(128 - part.shown_hw[1]) // 2, (96 - part.shown_hw[0]) // 2])
    scale = torch.tensor(part.shown_hw[::-1]) / torch.tensor(part.part_hw[::-1])
    assert (found - ((pixel - cut) * scale + bars)).abs().max() < 0.3


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("lens", ["fisheye", "pinhole"])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_the_view_tells_where_the_frames_show_a_point(fit: str, lens: str, turns: int) -> None:
    """ExoView, which knows no frames, and FrameMaker, which makes them, put it on one place."""
    camera = replace(gopro((270, 480)), quarter_turns_cw=turns)
    recipe, source = ClipRecipe(hw=(96, 128), exo_fit=fit, exo_lens=lens), video_lens(camera)
    axis = torch.tensor([[0.2, -0.15, 1.0]], dtype=torch.float64)
    axis = axis / axis.norm()
    directions, _ = source.unproject(pixel_centres(source.hw))
    glow = 255 * (-(directions - axis).square().sum(-1) / 0.05**2).exp()
    frame = glow.round().to(torch.uint8)[None, ..., None].expand(1, *source.hw, 3).contiguous()
    shown = FrameMaker(recipe, camera, is_ego=False)(frame)[0, ..., 0].double()
    found = (pixel_centres(recipe.hw) * shown[..., None]).sum((0, 1)) / shown.sum()
    (pixel,), (seen,) = exo_view(recipe, camera).project(axis)
    assert seen
    assert (found - pixel).abs().max() < 0.3


def test_a_pinhole_camera_is_not_undistorted_again() -> None:
    camera = CameraRow("c", "v", "pinhole", (50.0, 51.0, 32.0, 18.0), HW, 0, np.eye(4)[None])
    recipe = ClipRecipe(hw=(32, 48), exo_lens="pinhole")
    shown = FrameMaker(recipe, camera, is_ego=False)(stripes(HW))
    assert torch.equal(shown, Resampler(HW, (32, 48))(stripes(HW)))


@pytest.mark.parametrize("centre", [(1920.0, 1080.0), (1900.0, 1103.0)])
@pytest.mark.parametrize("focals", [(1761.28, 1761.28), (1761.28, 1700.0)])
@pytest.mark.parametrize("balance", [0.0, 0.8, 1.0])
def test_the_undistorted_k_is_opencvs(
    centre: tuple[float, float], focals: tuple[float, float], balance: float
) -> None:
    k = np.array([[focals[0], 0, centre[0]], [0, focals[1], centre[1]], [0, 0, 1]])
    truth = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
        k, np.array(BEND), (3840, 2160), np.eye(3), balance=balance
    )
    lens = KannalaBrandt(*focals, centre[0] + 0.5, centre[1] + 0.5, *BEND, hw=(2160, 3840))
    found = undistorted_pinhole(lens, balance).params
    expected = (truth[0, 0], truth[1, 1], truth[0, 2] + 0.5, truth[1, 2] + 0.5)
    assert np.abs(np.array(found) - expected).max() < 2e-3


def test_a_turned_camera_is_undistorted_as_its_video_lies() -> None:
    lens = KannalaBrandt(30.0, 31.0, 32.0, 18.0, *BEND, hw=HW)
    upright, sideways = undistorted_pinhole(Turned(lens, 1), 0.8), undistorted_pinhole(lens, 0.8)
    assert isinstance(upright, Pinhole) and upright.hw == (64, 36)
    assert np.isclose(upright.fx / upright.fy, sideways.fy / sideways.fx, rtol=1e-6)
