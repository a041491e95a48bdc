"""Baseline: an exo view in place of the ego video: a fixed one, or the best one of each take."""

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from jaxtyping import UInt8
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exo2ego.evaluation.baselines.source import Baseline, BaselineFault, BaselineSource
from exo2ego.evaluation.metrics import psnr
from exo2ego.evaluation.sample_files import kept_frames

ORACLE = "the view of highest mean PSNR over the take's clips of the set: it looks at the truth"


class ExoView(BaseModel):
    """The frames of an exo view, at the size at which the store has them.

    `best` is an oracle, an upper bound that no method can be held to: it chooses by the truth.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["exo-view"] = "exo-view"
    view: Literal["best"] | int = Field(default="best", description="best, or its number from 0")


def open_exo_view(settings: ExoView, source: BaselineSource) -> Baseline:
    """Raises BaselineFault if a clip lacks the view, StoreFault if `best` has no truth to ask."""
    store, view = source.store, settings.view
    if view != "best":
        _check_view(source, view)

    @cache
    def best_of(take: str) -> int:
        return best_view(source, [c for c in source.clip_ids if store.row(c).take_name == take])

    def chosen(clip_id: str) -> int:
        return best_of(store.row(clip_id).take_name) if view == "best" else view

    def film(clip_ids: Sequence[str]) -> UInt8[Tensor, "b T H W 3"]:
        return torch.stack(
            [kept_frames(store, source.codec, clip, "exo")[chosen(clip)] for clip in clip_ids]
        )

    def note(clip_id: str) -> str:
        number = chosen(clip_id)
        return f"view {number}, {store.row(clip_id).present[number].cam_id}"

    choice = f"best: {ORACLE}" if view == "best" else f"view {view} of every clip"
    return Baseline({"name": "exo-view", "view": view, "choice": choice}, lambda: film, note)


def best_view(source: BaselineSource, clip_ids: Sequence[str]) -> int:
    """The view whose frames have the highest mean PSNR against the clips' truth."""
    store, sums = source.store, []
    for clip_id in clip_ids:
        truth = torch.from_numpy(store.read("ego_frames", [clip_id])[0])
        views = kept_frames(store, source.codec, clip_id, "exo")[: len(store.row(clip_id).present)]
        sums.append(torch.stack([psnr(view, truth).mean() for view in views]))
    shared = min(map(len, sums))
    return int(torch.stack([of_clip[:shared] for of_clip in sums]).mean(dim=0).argmax())


def _check_view(source: BaselineSource, view: int) -> None:
    counts = source.store.view_counts(source.clip_ids)
    pairs = zip(source.clip_ids, counts, strict=True)
    if bare := [clip_id for clip_id, count in pairs if not 0 <= view < count]:
        raise BaselineFault(
            "Clips lack this exo view.",
            where=f"{source.store.path}@{source.store.hash[:12]}, --view",
            expected="a view that every clip of the set has",
            got=f"view {view}; {len(bare)} clips lack it, {bare[0]} the first",
            fix="Name another view (0 is the reference), or `best`.",
        )
