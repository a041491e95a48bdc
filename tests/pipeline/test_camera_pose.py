"""Claims about the undistorted K of camera_pose files: pipeline/camera_pose.py."""

import cv2
import numpy as np
import pytest

from exo2ego.geometry.lenses import KannalaBrandt
from pipeline.camera_pose import exo_lens, undistorted_focal

BEND = (0.036902, 0.057131, -0.057154, 0.018458)


def _opencv_k(focal_px: float, hw: tuple[int, int], balance: float) -> np.ndarray:
    k = np.array([[focal_px, 0, hw[1] / 2], [0, focal_px, hw[0] / 2], [0, 0, 1]])
    return cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
        k, np.array(BEND), hw[::-1], np.eye(3), balance=balance
    )


@pytest.mark.parametrize("hw", [(2160, 3840), (3840, 2160)])
@pytest.mark.parametrize("balance", [0.0, 0.8, 1.0])
def test_the_undistorted_focal_length_is_opencvs(hw: tuple[int, int], balance: float) -> None:
    lens = KannalaBrandt(1761.28, 1761.28, hw[1] / 2 + 0.5, hw[0] / 2 + 0.5, *BEND, hw=hw)
    found = undistorted_focal(lens, balance)
    assert abs(found - _opencv_k(1761.28, hw, balance)[0, 0]) < 1e-3


def test_the_released_example_is_met() -> None:
    lens = KannalaBrandt(1761.28, 1761.28, 1920.5, 1080.5, *BEND, hw=(2160, 3840))
    assert abs(undistorted_focal(lens, 0.8) - 1237.12) < 0.01


@pytest.mark.parametrize("portrait", [False, True])
@pytest.mark.parametrize("focal_px", [1749.5, 1786.25])
def test_the_raw_focal_length_is_found_again(focal_px: float, portrait: bool) -> None:
    hw = (3840, 2160) if portrait else (2160, 3840)
    camera = {
        "camera_intrinsics": _opencv_k(focal_px, hw, 0.8).tolist(),
        "distortion_coeffs": list(BEND),
    }
    lens = exo_lens({"gp01": camera}, "gp01", portrait)
    assert abs(lens.fx - focal_px) < 2e-3
    assert (lens.cx, lens.cy, lens.hw) == (hw[1] / 2 + 0.5, hw[0] / 2 + 0.5, hw)
