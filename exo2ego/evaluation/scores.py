"""Scores of a folder of samples: means over clips, takes and categories, with their intervals.

A take's score is the mean over the frames of its clips (over its clips for what a clip has one
number of), a category's and the overall score the mean over takes.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from exo2ego.evaluation.bootstrap import mean_interval
from exo2ego.evaluation.measures import MEASURES, Measured
from stores.reading import Store

NOT_MEASURED = "not measured"
Number = float | Literal["not measured"]
OVERALL = "overall"
"""Name of the group of all takes."""


class Score(BaseModel):
    """Every measure of something; what each is, `measures.MEASURES` says."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    psnr: float = Field(description="decibels; infinite for equal frames")
    ssim: float = Field(description="1 for equal frames")
    lpips: Number = Field(description="0 for equal frames")
    sharpness_log2: Number = Field(default=NOT_MEASURED, description="0 for equal frames")
    view_bias: Number = Field(default=NOT_MEASURED, description="-1 for equal first frames")
    view_bias_pixels: Number = Field(default=NOT_MEASURED, description="-1 for equal first frames")
    lag_frames: Number = Field(default=NOT_MEASURED, description="of the clips that have one")
    timing_error_frames: Number = Field(default=NOT_MEASURED, description="of the same clips")
    motion_agreement: Number = Field(default=NOT_MEASURED, description="1 for equal motion")
    motion_on_time: Number = Field(default=NOT_MEASURED, description="the same without a lag")
    motion_lateness: Number = Field(default=NOT_MEASURED, description="above 0 if it comes late")


class Interval(BaseModel):
    """Where a group's mean lies, at a confidence of 95 %."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    takes: int = Field(description="takes in which it is measured")
    low: Number = Field(description="not measured for a single take")
    high: Number = Field(description="not measured for a single take")


Intervals = Annotated[
    dict[str, dict[str, Interval]], Field(description="by group (overall, category), by measure")
]


class Scores(BaseModel):
    """What scores.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    overall: Score = Field(description="mean over takes")
    categories: dict[str, Score] = Field(description="mean over the category's takes")
    takes: dict[str, Score] = Field(description="mean over the frames of the take's clips")
    clips: dict[str, Score] = Field(description="mean over the clip's frames")
    intervals: Intervals = Field(default_factory=dict)
    missing: list[str] = Field(description="clips of the evaluation set that have no video")
    provenance: dict[str, Any] = Field(description="samples, method, weights and software")


def gather(
    store: Store, measured: Mapping[str, Measured], missing: list[str], provenance: dict[str, Any]
) -> Scores:
    """Means over clips, takes and categories, and the intervals of the last two."""
    takes: dict[str, list[Measured]] = {}
    groups: dict[str, dict[str, Score]] = {}
    for clip_id, of_clip in measured.items():
        takes.setdefault(store.row(clip_id).take_name, []).append(of_clip)
    by_take = {take: _mean_of_clips(clips) for take, clips in takes.items()}
    for clip_id in measured:
        row = store.row(clip_id)
        groups.setdefault(row.category, {})[row.take_name] = by_take[row.take_name]
    categories = {name: list(scores.values()) for name, scores in sorted(groups.items())}
    everything = {OVERALL: list(by_take.values()), **categories}
    return Scores(
        overall=_mean(everything[OVERALL]),
        categories={name: _mean(scores) for name, scores in categories.items()},
        takes=by_take,
        clips={clip_id: _mean_of_clips([of_clip]) for clip_id, of_clip in measured.items()},
        intervals={name: _intervals(name, scores) for name, scores in everything.items()},
        missing=missing,
        provenance=provenance,
    )


def _mean_of_clips(clips: Sequence[Measured]) -> Score:
    """A frame's measures over all frames, if all have them; a clip's over the clips that do."""
    found: dict[str, Number] = {}
    for name, measure in MEASURES.items():
        if measure.of == "frame":
            values = [clip.frames[name] for clip in clips if name in clip.frames]
            whole = len(values) == len(clips)
            found[name] = torch.cat(values).mean().item() if whole else NOT_MEASURED
        else:
            numbers = [clip.clip[name] for clip in clips]
            found[name] = _mean_number([number for number in numbers if number is not None])
    return Score(**found)  # pyright: ignore[reportArgumentType]


def _mean(scores: Sequence[Score]) -> Score:
    """Mean over takes: of a frame's measures if all have them, of a clip's over those with one."""
    found: dict[str, Number] = {}
    for name, measure in MEASURES.items():
        values = _measured(scores, name)
        whole = measure.of == "clip" or len(values) == len(scores)
        found[name] = _mean_number(values) if whole else NOT_MEASURED
    return Score(**found)  # pyright: ignore[reportArgumentType]


def _intervals(group: str, scores: Sequence[Score]) -> dict[str, Interval]:
    """The intervals of what is measured in the group."""
    found = {}
    for name in MEASURES:
        if values := _measured(scores, name):
            low, high = mean_interval(values, f"{group}/{name}") or (NOT_MEASURED, NOT_MEASURED)
            found[name] = Interval(takes=len(values), low=low, high=high)
    return found


def _measured(scores: Sequence[Score], name: str) -> list[float]:
    values = [getattr(score, name) for score in scores]
    return [value for value in values if not isinstance(value, str)]


def _mean_number(values: Sequence[float]) -> Number:
    return sum(values) / len(values) if values else NOT_MEASURED
