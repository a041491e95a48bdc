"""Clips that lack exo views: an absent view is NaN, and no model ever sees it."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def by_views(
    run: Callable[..., Float[Tensor, "b ..."]],
    of_views: tuple[Shaped[Tensor, "b v ..."], ...],
    of_clips: tuple[Tensor | None, ...] = (),
) -> Float[Tensor, "b ..."]:
    """run(*of_views, *of_clips), each clip with the views that it has, in the batch's order.

    Clips with the same views run together. Where no view is absent, `run` gets what came in. A
    view is absent if the first number of it in the first of `of_views` is NaN. Where processes
    must run a model equally often (FSDP), a batch of one clip always is one run.
    """
    groups = clips_by_views(of_views[0])
    if len(groups) == 1 and len(next(iter(groups))) == of_views[0].shape[1]:
        return run(*of_views, *of_clips)
    parts, places = [], []
    for views, clips in groups.items():
        seen = (tensor[clips][:, list(views)] for tensor in of_views)
        parts.append(run(*seen, *(one if one is None else one[clips] for one in of_clips)))
        places += clips
    back = sorted(range(len(places)), key=places.__getitem__)
    return torch.cat(parts)[back]


def clips_by_views(exo: Float[Tensor, "b v ..."]) -> dict[tuple[int, ...], list[int]]:
    """Numbers of the clips of a batch, by the numbers of the views that they have."""
    if exo.is_meta:  # no numbers, so none is NaN
        return {tuple(range(exo.shape[1])): list(range(len(exo)))}
    first_numbers = exo[(slice(None), slice(None), *[0] * (exo.ndim - 2))]
    groups: dict[tuple[int, ...], list[int]] = {}
    for clip, absent in enumerate(first_numbers.isnan().tolist()):
        views = tuple(view for view, is_absent in enumerate(absent) if not is_absent)
        if not views:
            raise ValueError(f"clip {clip} of the batch has no view at all")
        groups.setdefault(views, []).append(clip)
    return groups
