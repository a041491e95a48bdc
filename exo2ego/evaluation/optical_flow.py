"""Dense optical flow by Lucas and Kanade's method (1981) from coarse to fine, in plain torch."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

LEAST_SIDE = 12
"""Pixels of the coarsest level's shorter side, at least."""
ITERATIONS = 4
"""Refinements a level."""
WINDOW_RADIUS = 4
"""Pixels around a pixel whose motion is taken to be the same."""
MOST_STEP = 1.5
"""Pixels of a level that one refinement may add: gradients know no more of what is far away."""
DAMPING = 4.0
"""Squared levels a pixel: where the gradients are weaker, motion is taken to be that around it."""
_Grey = Float[Tensor, "n H W"]


def optical_flow(before: _Grey, after: _Grey) -> Float[Tensor, "n 2 H W"]:
    """Pixels (x right, y down) by which each pixel of `before` has moved in `after`.

    Frames are brightness in levels 0 to 255. Flow is smooth by its window; at a border it follows
    what is inside.
    """
    levels = [(before.float(), after.float())]
    while min(levels[-1][0].shape[-2:]) >= 2 * LEAST_SIDE:
        levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
    flow = levels[-1][0].new_zeros(len(before), 2, *levels[-1][0].shape[-2:])
    for first, second in reversed(levels):
        flow = _refined(_to_size(flow, first.shape[-2:]), first, second)
    return flow


def _refined(
    flow: Float[Tensor, "n 2 H W"], before: _Grey, after: _Grey
) -> Float[Tensor, "n 2 H W"]:
    """The flow after some least-squares steps on one level."""
    before, after = _smooth(before), _smooth(after)
    for _ in range(ITERATIONS):
        warped, inside = _warped(after, flow)
        by_x, by_y = _gradients((before + warped) / 2)
        change = warped - before
        products = [by_x * by_x, by_x * by_y, by_y * by_y, by_x * change, by_y * change]
        # what has left the picture says nothing: its window goes by the rest
        xx, xy, yy, xt, yt = (_window_mean(inside * product) for product in products)
        xx, yy = xx + DAMPING, yy + DAMPING
        determinant = xx * yy - xy * xy
        step = torch.stack([xy * yt - yy * xt, xy * xt - xx * yt], dim=1)
        flow = flow + (step / determinant[:, None]).clamp(-MOST_STEP, MOST_STEP)
        flow = torch.stack([_window_mean(part) for part in flow.unbind(dim=1)], dim=1)
    return flow


def _warped(image: _Grey, flow: Float[Tensor, "n 2 H W"]) -> tuple[_Grey, _Grey]:
    """The image at each pixel's place plus its flow, and 1 where that is in the picture, else 0."""
    height, width = image.shape[-2:]
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device)
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)
    x = (2 * (columns[None, None, :] + flow[:, 0]) + 1) / width - 1
    y = (2 * (rows[None, :, None] + flow[:, 1]) + 1) / height - 1
    inside = (x.abs() < 1) & (y.abs() < 1)
    moved = functional.grid_sample(
        rearrange(image, "n H W -> n 1 H W"),
        torch.stack([x, y], dim=-1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return rearrange(moved, "n 1 H W -> n H W"), inside.to(image.dtype)


def _gradients(image: _Grey) -> tuple[_Grey, _Grey]:
    """Change of brightness a pixel, across and down."""
    by_y, by_x = torch.gradient(image, dim=(1, 2))
    return by_x, by_y


def _smooth(image: _Grey) -> _Grey:
    """Weights 1 2 1 over 4, both ways."""
    return _convolved(image, torch.tensor([1.0, 2.0, 1.0]) / 4)


def _window_mean(image: _Grey) -> _Grey:
    """A bell-shaped mean over the window."""
    offsets = torch.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1, dtype=torch.float32)
    weights = torch.exp(-2 * (offsets / WINDOW_RADIUS) ** 2)
    return _convolved(image, weights / weights.sum())


def _convolved(image: _Grey, weights: Float[Tensor, " taps"]) -> _Grey:
    weights, radius = weights.to(image), len(weights) // 2
    planes = rearrange(image, "n H W -> n 1 H W")
    planes = functional.pad(planes, (radius, radius, radius, radius), mode="replicate")
    planes = functional.conv2d(planes, rearrange(weights, "taps -> 1 1 taps 1"))
    planes = functional.conv2d(planes, rearrange(weights, "taps -> 1 1 1 taps"))
    return rearrange(planes, "n 1 H W -> n H W")


def _halved(image: _Grey) -> Float[Tensor, "n H2 W2"]:
    return functional.avg_pool2d(image, kernel_size=2, ceil_mode=True)


def _to_size(flow: Float[Tensor, "n 2 h w"], hw: torch.Size) -> Float[Tensor, "n 2 H W"]:
    """The flow on a finer level, in its pixels."""
    if flow.shape[-2:] == hw:
        return flow
    scale = torch.tensor([hw[1] / flow.shape[3], hw[0] / flow.shape[2]]).to(flow)
    grown = functional.interpolate(flow, size=tuple(hw), mode="bilinear", align_corners=False)
    return grown * rearrange(scale, "xy -> xy 1 1")
