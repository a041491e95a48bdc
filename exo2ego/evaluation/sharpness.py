"""Sharpness against the truth: the energy of gradients, which blur takes away and noise adds to."""

import torch
from einops import reduce
from jaxtyping import Float64, UInt8
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""
ROUNDING_ENERGY = 2 * 2 / 12
"""Gradient energy of rounding to whole levels alone: two pixels of variance 1/12, two directions.

It is added on both sides, so that a plain frame is as sharp as a plain one, and no ratio infinite.
"""


def luma(frames: UInt8[Tensor, "n H W 3"]) -> Float64[Tensor, "n H W"]:
    """Brightness in levels 0 to 255."""
    weights = torch.tensor(LUMA, dtype=torch.float64, device=frames.device)
    return torch.einsum("n h w c, c -> n h w", frames.double(), weights)


def gradient_energy(frames: UInt8[Tensor, "n H W 3"]) -> Float64[Tensor, " n"]:
    """Mean squared step of brightness from pixel to pixel, across plus down, in levels squared."""
    grey = luma(frames)
    across, down = grey.diff(dim=2) ** 2, grey.diff(dim=1) ** 2
    return reduce(across, "n h w -> n", "mean") + reduce(down, "n h w -> n", "mean")


def sharpness_log2(
    frames: UInt8[Tensor, "n H W 3"], truth: UInt8[Tensor, "n H W 3"]
) -> Float64[Tensor, " n"]:
    """log2 of each frame's gradient energy over the truth's: 0 as sharp, -1 half the energy.

    Choice: the paper has no such measure (its section 11 names blur and textureless frames).
    """
    energy, true_energy = gradient_energy(frames), gradient_energy(truth)
    return torch.log2((energy + ROUNDING_ENERGY) / (true_energy + ROUNDING_ENERGY))
