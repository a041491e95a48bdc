"""View bias: how much closer a generated first frame is to an exo view than to the ego truth.

The paper's section 6 shows it in pictures and gives no number. Choice: for a distance d,

    bias = (d(generated, truth) - d(generated, exo)) / (d(generated, truth) + d(generated, exo))

with the exo view that is nearest to the generated frame: 1 is a copy of that view, -1 the truth,
0 as far from one as from the other. With LPIPS as d, and with the root mean square of pixels.
"""

from collections.abc import Callable

import torch
from einops import reduce, repeat
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from exo2ego.evaluation.metrics import unit_frames

Distance = Callable[[Tensor, Tensor], Float[Tensor, " n"]]
"""Of uint8 frames "n H W 3" to as many others: 0 for equal ones."""


def pixel_distance(
    frames: UInt8[Tensor, "n H W 3"], others: UInt8[Tensor, "n H W 3"]
) -> Float64[Tensor, " n"]:
    """Root mean square of the difference of pixels in [0, 1]."""
    squared = (unit_frames(frames) - unit_frames(others)) ** 2
    return torch.sqrt(reduce(squared, "n rgb H W -> n", "mean"))


def view_bias(
    generated: UInt8[Tensor, "H W 3"],
    truth: UInt8[Tensor, "H W 3"],
    exos: UInt8[Tensor, "v H W 3"],
    distance: Distance,
) -> float | None:
    """The bias, -1 to 1; None if the frame is equal to the truth and to an exo view alike."""
    to_truth = float(distance(generated[None], truth[None])[0])
    to_exos = distance(repeat(generated, "H W rgb -> v H W rgb", v=len(exos)), exos)
    nearest = float(to_exos.min())
    total = to_truth + nearest
    return (to_truth - nearest) / total if total > 0 else None
