"""PSNR and SSIM of frames against the truth, one value a frame, in float64.

As the paper's protocol has them (4.1: that of Exo2Ego-V): frames in [0, 1], so the range L is 1.
"""

import torch
from einops import rearrange, reduce
from jaxtyping import Float64, UInt8
from torch import Tensor
from torch.nn import functional

from stores.errors import ShapeFault

FULL_SCALE = 255
"""The largest value of a uint8 frame."""
WINDOW_TAPS = 11
"""Side of SSIM's Gaussian window in pixels (Exo2Ego-V's metric; Wang et al. 2004)."""
WINDOW_SIGMA = 1.5
"""Its standard deviation in pixels (same source)."""
LUMINANCE_FLOOR = 0.01**2
"""C1 = (K1 L)^2 (same source)."""
CONTRAST_FLOOR = 0.03**2
"""C2 = (K2 L)^2 (same source)."""


def unit_frames(frames: UInt8[Tensor, "n H W 3"]) -> Float64[Tensor, "n 3 H W"]:
    """Frames in [0, 1]."""
    return rearrange(frames, "n H W rgb -> n rgb H W").double() / FULL_SCALE


def psnr(
    frames: UInt8[Tensor, "n H W 3"], truth: UInt8[Tensor, "n H W 3"]
) -> Float64[Tensor, " n"]:
    """Peak signal-to-noise ratio of each frame in decibels; infinite where frames are equal."""
    squared = (unit_frames(frames) - unit_frames(truth)) ** 2
    return -10 * torch.log10(reduce(squared, "n rgb H W -> n", "mean"))


def ssim(
    frames: UInt8[Tensor, "n H W 3"], truth: UInt8[Tensor, "n H W 3"]
) -> Float64[Tensor, " n"]:
    """Structural similarity of each frame: mean over channels and over whole windows (no padding).

    Raises ShapeFault if a window does not fit into the frame.
    """
    if min(frames.shape[1:3]) < WINDOW_TAPS:
        raise ShapeFault(
            "These frames are too small for SSIM.",
            where="height, width",
            expected=f"at least {WINDOW_TAPS} pixels each",
            got=tuple(frames.shape[1:3]),
            fix="Evaluate larger frames.",
        )
    x, y = unit_frames(frames), unit_frames(truth)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mean_x**2
    var_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + LUMINANCE_FLOOR) / (mean_x**2 + mean_y**2 + LUMINANCE_FLOOR)
    structure = (2 * covariance + CONTRAST_FLOOR) / (var_x + var_y + CONTRAST_FLOOR)
    return reduce(luminance * structure, "n rgb H W -> n", "mean")


def _window_mean(images: Float64[Tensor, "n 3 H W"]) -> Float64[Tensor, "n 3 H2 W2"]:
    """Gaussian mean of every window that lies whole inside the image."""
    offsets = torch.arange(WINDOW_TAPS, dtype=torch.float64, device=images.device)
    weights = torch.exp(-(((offsets - WINDOW_TAPS // 2) / WINDOW_SIGMA) ** 2) / 2)
    weights = weights / weights.sum()
    planes = rearrange(images, "n rgb H W -> (n rgb) 1 H W")
    planes = functional.conv2d(planes, rearrange(weights, "taps -> 1 1 taps 1"))
    planes = functional.conv2d(planes, rearrange(weights, "taps -> 1 1 1 taps"))
    return rearrange(planes, "(n rgb) 1 H W -> n rgb H W", n=len(images))
