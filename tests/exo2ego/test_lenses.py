"""Lenses against OpenCV's and Aria's own, over whole images; their inverses, sizes and turns."""

import csv
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from exo2ego.geometry.camera import CameraError, rotate_directions
from exo2ego.geometry.fisheye624 import Fisheye624
from exo2ego.geometry.kannala_brandt import KannalaBrandt
from exo2ego.geometry.lenses import (
    LENSES,
    Lens,
    Pinhole,
    Turned,
    fisheye624_2880_to_1408,
    make_lens,
    pixel_centres,
    virtual_pinhole,
)

ARIA = Path(__file__).parents[1] / "fixtures" / "aria"


def float64(numbers: list) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


UPRIGHT_FROM_RAW = float64([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def gopro() -> KannalaBrandt:
    """The first GoPro of a real take."""
    with (ARIA / "gopro_calibs.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    numbers = [float(row[f"intrinsics_{n}"]) for n in range(8)]
    return KannalaBrandt(*numbers, hw=(int(row["image_height"]), int(row["image_width"])))


def aria_params() -> list[float]:
    """f, cx, cy, k0 to k5, p0, p1, s0 to s3 of a real pair of glasses, integer pixel centres."""
    line = json.loads((ARIA / "online_calibration.jsonl").read_text().splitlines()[0])
    cameras = {camera["Label"]: camera for camera in line["CameraCalibrations"]}
    return cameras["camera-rgb"]["Projection"]["Params"]


def aria() -> Fisheye624:
    """The same with pixel centres at +0.5."""
    f, cx, cy, *rest = aria_params()
    return Fisheye624(f, f, cx + 0.5, cy + 0.5, *rest, hw=(2880, 2880))


def sparse_centres(hw: tuple[int, int], count: int) -> Tensor:
    """Pixel centres over a whole image, its corners included: "count count 2"."""
    rows = torch.linspace(0, hw[0] - 1, count, dtype=torch.float64).round() + 0.5
    columns = torch.linspace(0, hw[1] - 1, count, dtype=torch.float64).round() + 0.5
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)


REAL: dict[str, Lens] = {
    "gopro": gopro(),
    "gopro, 796 x 448": gopro().resized((448, 796)),
    "aria, sensor": aria(),
    "aria, upright video": Turned(fisheye624_2880_to_1408(aria()), 1),
    "virtual pinhole": virtual_pinhole((256, 192), 150 / 512),
}
real_lenses = pytest.mark.parametrize("lens", REAL.values(), ids=REAL)


def test_kannala_brandt_projects_where_opencv_does():
    lens, generator = gopro(), torch.Generator().manual_seed(0)
    points = torch.randn(500, 3, dtype=torch.float64, generator=generator)
    points[:, 2] = points[:, 2].abs() + 0.05
    K = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    bend, still = np.array(lens.params[4:]), np.zeros(3)
    expected, _ = cv2.fisheye.projectPoints(points[:, None].numpy(), still, still, K, bend)
    pixels, valid = lens.project(points)
    assert valid.all()
    assert_close(pixels.numpy(), expected[:, 0], rtol=0, atol=1e-7)


def test_kannala_brandt_unprojects_as_opencv_over_the_whole_image():
    lens = gopro()
    pixels = sparse_centres(lens.hw, 61)
    K = np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1]])
    expected = cv2.fisheye.undistortPoints(
        pixels.reshape(-1, 1, 2).numpy(),
        K,
        np.array(lens.params[4:]),
        criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-14),
    ).reshape(61, 61, 2)
    directions, valid = lens.unproject(pixels)
    assert valid.all()
    assert_close((directions[..., :2] / directions[..., 2:]).numpy(), expected, rtol=0, atol=1e-9)


def aria_calibration():
    """The official lens of the same numbers; integer pixel centres."""
    why = "projectaria_tools is not installed: Fisheye624 is only held to its recorded pixels"
    calibration = pytest.importorskip("projectaria_tools.core.calibration", reason=why)
    sophus = pytest.importorskip("projectaria_tools.core.sophus", reason=why)
    kind = calibration.CameraModelType.FISHEYE624
    still, numbers = sophus.SE3(), np.array(aria_params())
    return calibration.CameraCalibration("rgb", kind, numbers, still, 2880, 2880, None, math.pi, "")


def test_fisheye624_is_arias_own_lens_over_the_whole_image():
    lens, official = aria(), aria_calibration()
    pixels = sparse_centres(lens.hw, 41)
    directions, valid = lens.unproject(pixels)
    assert valid.all()
    rays = [official.unproject_no_checks(pixel) for pixel in (pixels.reshape(-1, 2) - 0.5).numpy()]
    back = [official.project_no_checks(ray) for ray in directions.reshape(-1, 3).numpy()]
    ours, _ = lens.project(torch.tensor(np.array(rays)))
    assert_close(ours, pixels.reshape(-1, 2), rtol=0, atol=1e-3)
    assert_close(torch.tensor(np.array(back)) + 0.5, pixels.reshape(-1, 2), rtol=0, atol=1e-6)


def test_fisheye624_projects_to_the_pixels_recorded_from_arias_own():
    table = torch.tensor(np.loadtxt(ARIA / "fisheye624_pixels.csv", delimiter=",", skiprows=1))
    pixels, valid = aria().project(table[:, :3])
    assert valid.all()
    assert_close(pixels - 0.5, table[:, 3:], rtol=0, atol=1e-5)


@real_lenses
def test_a_pixels_ray_projects_to_the_pixel_over_the_whole_image(lens: Lens):
    single_px = 1.5e-6 * max(lens.hw)  # some roundings of the largest coordinate
    for dtype, atol in ((torch.float64, 1e-6), (torch.float32, single_px)):
        pixels = sparse_centres(lens.hw, 57).to(dtype)
        directions, seen = lens.unproject(pixels)
        back, valid = lens.project(directions)
        assert seen.all() and valid.all()
        assert back.dtype == directions.dtype == dtype
        assert_close(back, pixels, rtol=0, atol=atol)


@real_lenses
def test_rays_are_unit_vectors(lens: Lens):
    directions, _ = lens.unproject(sparse_centres(lens.hw, 23))
    assert_close(directions.square().sum(dim=-1), torch.ones(23, 23).double(), rtol=0, atol=1e-14)


@real_lenses
def test_a_ray_has_the_same_bits_alone_and_among_others(lens: Lens):
    pixels = sparse_centres(lens.hw, 19)
    together, _ = lens.unproject(pixels)
    for row, column in ((0, 0), (7, 3), (18, 18)):
        assert torch.equal(lens.unproject(pixels[row, column])[0], together[row, column])
    assert torch.equal(lens.unproject(pixels[3:8])[0], together[3:8])


bends = st.floats(-0.2, 0.2)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(bends, bends, bends, bends, st.floats(0.01, 3.1), st.floats(-3.1, 3.1))
def test_every_direction_below_the_limit_comes_back_from_its_pixel(k0, k1, k2, k3, angle, turn):
    lens = KannalaBrandt(300.0, 310.0, 120.0, 90.0, k0, k1, k2, k3, hw=(200, 260))
    across, z = math.sin(angle), math.cos(angle)
    point = float64([across * math.cos(turn), across * math.sin(turn), z])
    pixel, valid = lens.project(point)
    assert bool(valid) == (angle <= lens.angle_limit)
    if angle < 0.99 * lens.angle_limit:
        direction, seen = lens.unproject(pixel)
        assert seen
        assert_close(direction, point, rtol=0, atol=1e-6)


def test_a_lens_that_folds_back_has_rays_only_up_to_the_fold():
    fold = KannalaBrandt(100.0, 100.0, 0.0, 0.0, -0.2, 0.0, 0.0, 0.0, hw=(100, 100))
    limit = 1 / math.sqrt(3 * 0.2)
    assert fold.angle_limit == pytest.approx(limit, abs=1e-12)
    rim = 100 * limit * (1 - 0.2 * limit**2)
    x = float64([rim * 0.5, rim * 0.999999, rim * 1.000001, rim * 3])
    pixels = torch.stack([x, torch.zeros(4).double()], dim=-1)
    directions, valid = fold.unproject(pixels)
    assert valid.tolist() == [True, True, False, False]
    assert_close(fold.project(directions[:2])[0], pixels[:2], rtol=0, atol=1e-6)
    beyond = float64([math.sin(limit + 0.01), 0, math.cos(limit + 0.01)])
    assert not fold.project(beyond)[1]


def test_a_fisheye_sees_behind_itself():
    wide = KannalaBrandt(100.0, 100.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, hw=(100, 100))
    angle = math.radians(150)
    pixel, valid = wide.project(float64([0.0, math.sin(angle), math.cos(angle)]))
    assert valid
    assert_close(pixel, float64([0, 100 * angle]))


@pytest.mark.parametrize("name", ["gopro", "aria, sensor", "virtual pinhole"])
def test_what_no_lens_sees_is_invalid_and_finite(name: str):
    nowhere = float64([[0.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    pixels, valid = REAL[name].project(nowhere)
    assert not valid.any()
    assert pixels.isfinite().all()


@pytest.mark.parametrize("name", ["aria, sensor", "virtual pinhole"])
def test_half_space_lenses_see_nothing_beside_or_behind(name: str):
    points = float64([[1.0, 0.2, 0.0], [0.3, 0.1, -0.5], [0.3, 0.1, 0.5]])
    assert REAL[name].project(points)[1].tolist() == [False, False, True]


def test_a_pixel_far_outside_arias_field_is_invalid_and_finite():
    pixels = float64([[-9e4, 1440.0], [1440.0, 8e5], [1440.0, 1440.0]])
    directions, valid = aria().unproject(pixels)
    assert valid.tolist() == [False, False, True]
    assert directions.isfinite().all()


@real_lenses
def test_a_resized_lens_projects_to_the_scaled_pixels(lens: Lens):
    small = lens.resized((48, 80))
    pixels = sparse_centres(lens.hw, 13)
    directions, _ = lens.unproject(pixels)
    by_x_and_y = float64([80 / lens.hw[1], 48 / lens.hw[0]])
    assert small.hw == (48, 80)
    assert_close(small.project(directions)[0], pixels * by_x_and_y, rtol=0, atol=1e-9)


def test_arias_crop_and_halving_is_the_integer_centre_rule():
    f, cx, cy, *rest = aria_params()
    expected = [f / 2, f / 2, (cx - 0.5 - 32) / 2, (cy - 0.5 - 32) / 2, *rest]
    lens = fisheye624_2880_to_1408(aria())
    shift = np.array([0, 0, 0.5, 0.5, *[0] * len(rest)])
    assert lens.hw == (1408, 1408)
    assert_close(np.array(lens.params) - shift, np.array(expected), rtol=0, atol=1e-10)


def test_arias_crop_and_halving_refuses_a_lens_of_another_size():
    with pytest.raises(CameraError, match="2880"):
        fisheye624_2880_to_1408(aria().resized((1408, 1408)))


def test_resizing_arias_video_is_the_integer_centre_rule():
    video = fisheye624_2880_to_1408(aria())
    scale = 448 / 1408
    small = video.resized((448, 448))
    assert small.fx == pytest.approx(video.fx * scale, abs=1e-10)
    assert small.cx - 0.5 == pytest.approx((video.cx - 0.5 + 0.5) * scale - 0.5, abs=1e-10)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_lens_has_the_rays_of_the_rotated_image_pixel_by_pixel(turns: int):
    raw = aria().resized((20, 28))
    turned = Turned(raw, turns)
    directions = raw.unproject(pixel_centres(raw.hw))[0]
    for _ in range(turns):
        directions = rotate_directions(UPRIGHT_FROM_RAW, directions)
    rotated = torch.tensor(np.rot90(directions.numpy(), k=-turns).copy())
    assert turned.hw == rotated.shape[:2]
    assert_close(turned.unproject(pixel_centres(turned.hw))[0], rotated, rtol=0, atol=1e-12)


def test_a_turned_lens_goes_with_the_turned_pose():
    raw, points_raw = aria(), float64([[0.3, -0.2, 1.0], [-0.4, 0.1, 0.7]])
    pixels_raw, _ = raw.project(points_raw)
    upright = Turned(raw, 1).project(rotate_directions(UPRIGHT_FROM_RAW, points_raw))[0]
    expected = torch.stack([raw.hw[0] - pixels_raw[:, 1], pixels_raw[:, 0]], dim=-1)
    assert_close(upright, expected, rtol=0, atol=1e-9)


def test_a_centred_square_pinhole_is_the_same_turned():
    lens = virtual_pinhole((64, 64), 150 / 512)
    points = float64([[0.3, -0.2, 1.0], [-0.4, 0.1, 0.7]])
    assert_close(Turned(lens, 1).project(points)[0], lens.project(points)[0], rtol=0, atol=1e-12)


def test_the_virtual_pinhole_is_the_datasets_at_half_its_size():
    assert virtual_pinhole((256, 256), 150 / 512).params == (75.0, 75.0, 128.0, 128.0)
    assert virtual_pinhole((512, 256), 150 / 512) == Pinhole(75.0, 150.0, 128.0, 256.0, (512, 256))


def test_the_first_pixels_centre_is_at_a_half_and_x_runs_along_columns():
    centres = pixel_centres((3, 5))
    assert centres[0, 0].tolist() == [0.5, 0.5]
    assert centres[2, 4].tolist() == [4.5, 2.5]


@pytest.mark.parametrize(
    ("kind", "count"), [("pinhole", 4), ("kannala_brandt", 8), ("fisheye624", 16)]
)
def test_a_lens_is_remade_from_its_kind_and_params(kind: str, count: int):
    params = tuple(100.0 + n / 8 for n in range(count))
    lens = make_lens(kind, params, (30, 40))
    assert isinstance(lens, LENSES[kind])
    assert lens.params == params
    assert make_lens(kind, lens.params, lens.hw) == lens
    turned = make_lens(kind, params, (30, 40), quarter_turns_cw=1)
    assert (turned, turned.hw, turned.params) == (Turned(lens, 1), (40, 30), params)


@pytest.mark.parametrize(
    ("kind", "params", "says"),
    [
        ("fisheye", (1.0,) * 4, "unknown.*kannala_brandt"),
        ("pinhole", (1.0,) * 5, "5 parameters, but it has 4"),
        ("pinhole", (1.0, 1.0, math.nan, 1.0), "not finite"),
        ("kannala_brandt", (-1.0, *(1.0,) * 7), "must be positive"),
    ],
)
def test_impossible_lenses_are_refused(kind: str, params: tuple[float, ...], says: str):
    with pytest.raises(CameraError, match=says):
        make_lens(kind, params, (30, 40))
