"""What the bias probe found: a video's view bias, and the means of each family of prompts."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import UInt8
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exo2ego.evaluation.bias.prompts import Family
from exo2ego.evaluation.bootstrap import mean_interval
from exo2ego.evaluation.lpips import Lpips
from exo2ego.evaluation.scores import NOT_MEASURED, Interval, Number
from exo2ego.evaluation.view_bias import pixel_distance, view_bias

MEASURED = ("view_bias", "view_bias_pixels", "last_view_bias", "last_view_bias_pixels")
"""Numbers of a video, and of a family."""


class BiasMeasures(BaseModel):
    """View bias against the one exo frame that was given: 1 is that frame, -1 the ego truth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    view_bias: Number = Field(description="of the first frame, by LPIPS")
    view_bias_pixels: Number = Field(description="of the first frame, by root mean square")
    last_view_bias: Number = Field(description="of the last frame, to the truth of its time")
    last_view_bias_pixels: Number = Field(description="the same, by root mean square")


class VideoBias(BiasMeasures):
    """One video."""

    clip_id: str
    take_name: str
    family: Family
    prompt: str = Field(description="name, such as ego-2: its folder of samples")


class FamilyBias(BiasMeasures):
    """All videos of a family: means over a take's, then over takes."""

    videos: int
    intervals: dict[str, Interval] = Field(description="of the means over takes, 95 %")


class BiasReport(BaseModel):
    """What bias.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    families: dict[Family, FamilyBias]
    videos: list[VideoBias]
    prompts: dict[str, str] = Field(description="by name")
    provenance: dict[str, Any]


def measure_video(
    frames: UInt8[Tensor, "T H W 3"],
    truth: UInt8[Tensor, "T H W 3"],
    exo: UInt8[Tensor, "H W 3"],
    lpips: Lpips | None,
) -> BiasMeasures:
    """The measures of one video, given its true frames and the exo frame that it was made of."""
    found: dict[str, Number] = {}
    for prefix, time in (("", 0), ("last_", -1)):
        pair = (frames[time], truth[time], exo[None])
        pixels, perceived = view_bias(*pair, pixel_distance), None
        if lpips is not None:
            perceived = view_bias(*pair, lpips)
        found[f"{prefix}view_bias"] = _number(perceived)
        found[f"{prefix}view_bias_pixels"] = _number(pixels)
    return BiasMeasures.model_validate(found)


def family_bias(family: Family, videos: Sequence[VideoBias]) -> FamilyBias:
    """Means over takes, of those in which it is measured."""
    means: dict[str, Number] = {}
    intervals: dict[str, Interval] = {}
    for name in MEASURED:
        takes: dict[str, list[float]] = {}
        for video in videos:
            if not isinstance(value := getattr(video, name), str):
                takes.setdefault(video.take_name, []).append(value)
        values = [_mean(of_take) for of_take in takes.values()]
        means[name] = _mean(values) if values else NOT_MEASURED
        low, high = mean_interval(values, f"{family}/{name}") or (NOT_MEASURED, NOT_MEASURED)
        intervals[name] = Interval(takes=len(values), low=low, high=high)
    return FamilyBias.model_validate({**means, "videos": len(videos), "intervals": intervals})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _number(value: float | None) -> Number:
    return NOT_MEASURED if value is None else value
