"""All that is measured of one clip: by name, what it is, and its numbers, a frame's or a clip's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float64, UInt8
from torch import Tensor

from exo2ego.evaluation.camera_timing import camera_timing
from exo2ego.evaluation.lpips import Lpips
from exo2ego.evaluation.metrics import psnr, ssim
from exo2ego.evaluation.sharpness import sharpness_log2
from exo2ego.evaluation.view_bias import pixel_distance, view_bias


@dataclass(frozen=True)
class Measure:
    """One number of the tables."""

    of: Literal["frame", "clip"]
    better: Literal["more", "less", "zero", "none"]
    """Which values are good; none: a number that says how far to trust another one."""
    about: str


MEASURES: dict[str, Measure] = {
    "psnr": Measure("frame", "more", "10 log10(1 / MSE), frames in [0, 1]; decibels"),
    "ssim": Measure("frame", "more", "Gaussian 11x11, sigma 1.5, valid windows, mean over rgb"),
    "lpips": Measure("frame", "less", "AlexNet, version 0.1"),
    "sharpness_log2": Measure("frame", "zero", "log2 of gradient energy over the truth's"),
    "view_bias": Measure("clip", "less", "first frame, LPIPS: 1 an exo view, -1 the truth"),
    "view_bias_pixels": Measure("clip", "less", "the same with root mean square of pixels"),
    "lag_frames": Measure("clip", "zero", "frames by which motion is late; negative is early"),
    "timing_error_frames": Measure("clip", "less", "the lag without its sign"),
    "motion_agreement": Measure("clip", "more", "correlation of the motions at that lag"),
    "motion_on_time": Measure("clip", "more", "correlation of the motions without a lag"),
    "motion_lateness": Measure("clip", "zero", "correlation a frame late less a frame early"),
}
"""The paper's three metrics (4.1), then ours; docs/evaluation.md has the formulas."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The numbers of one clip; None or an absent name is not measured."""

    frames: Mapping[str, Float64[Tensor, " n"]]
    clip: Mapping[str, float | None]


def measure_clip(
    frames: UInt8[Tensor, "n H W 3"],
    truth: UInt8[Tensor, "n H W 3"],
    exos: UInt8[Tensor, "v H W 3"] | None,
    lpips: Lpips | None,
) -> Measured:
    """Every measure of a clip; `exos` are its views' first frames, None if the store lacks them."""
    of_frames = {
        "psnr": psnr(frames, truth),
        "ssim": ssim(frames, truth),
        "sharpness_log2": sharpness_log2(frames, truth),
    }
    if lpips is not None:
        of_frames["lpips"] = lpips(frames, truth).double()
    timing = camera_timing(frames, truth)
    lag, first = timing.lag_frames, (frames[0], truth[0])
    of_clip = {
        "view_bias": view_bias(*first, exos, lpips) if lpips and exos is not None else None,
        "view_bias_pixels": None if exos is None else view_bias(*first, exos, pixel_distance),
        "lag_frames": None if lag is None else float(lag),
        "timing_error_frames": None if lag is None else float(abs(lag)),
        "motion_agreement": timing.agreement,
        "motion_on_time": timing.on_time,
        "motion_lateness": timing.lateness,
    }
    return Measured({name: value.cpu() for name, value in of_frames.items()}, of_clip)
