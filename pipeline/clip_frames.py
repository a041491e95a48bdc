"""Frames of many clips out of their videos: each video once, each clip once it is whole."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from exo2ego.geometry.camera import CameraError
from pipeline.fit import FrameMaker
from pipeline.video import VideoFault, readable_frames
from stores.errors import UserFault
from stores.index import CameraRow
from stores.recipe import ClipRecipe

ClipFrames = UInt8[Tensor, "T H W 3"]
FrameFault = UserFault | CameraError | OSError
"""Why frames cannot be had: the video, its camera, or the disk."""


@dataclass(frozen=True, eq=False)
class FrameRequest:
    """One clip in one view."""

    position: int
    """Number of the clip, for whoever asks."""
    view: int | None
    """Number of the exo view; None is the ego camera."""
    camera: CameraRow
    frames: tuple[int, ...]


def decode_clips(
    root: Path, recipe: ClipRecipe, requests: Iterable[FrameRequest]
) -> Generator[tuple[FrameRequest, ClipFrames | FrameFault], None, None]:
    """Each request with its frames at the recipe's size, or with the reason why there are none.

    Videos come in the order of their first request. Each is decoded once, front to back; a frame
    is kept until no later clip needs it.
    """
    by_source: dict[tuple[Any, ...], list[FrameRequest]] = {}
    for request in requests:
        by_source.setdefault(_source(request), []).append(request)
    for members in by_source.values():
        waiting = sorted(members, key=lambda request: (max(request.frames), request.position))
        try:
            yield from _decode_source(root, recipe, waiting)
        except (UserFault, CameraError, OSError) as fault:
            yield from ((request, fault) for request in waiting)


def _source(request: FrameRequest) -> tuple[Any, ...]:
    """What must be equal for one pass over one video to serve two clips."""
    camera = request.camera
    shape = (camera.hw, camera.quarter_turns_cw, request.view is None)
    return (camera.video, camera.lens, camera.params, *shape)


def _decode_source(
    root: Path, recipe: ClipRecipe, waiting: list[FrameRequest]
) -> Iterator[tuple[FrameRequest, ClipFrames | FrameFault]]:
    """Takes each request out of `waiting`, which is in the order of last frames, once it is met."""
    camera, is_ego = waiting[0].camera, waiting[0].view is None
    make = FrameMaker(recipe, camera, is_ego=is_ego)
    wanted = sorted({frame for request in waiting for frame in request.frames})
    kept: dict[int, UInt8[Tensor, "H W 3"] | VideoFault] = {}
    for index, frame in readable_frames(root / camera.video, wanted):
        if isinstance(frame, VideoFault):
            kept[index] = frame
        else:
            _check_size(root / camera.video, make, frame.shape[:2])
            kept[index] = make(torch.from_numpy(frame)[None])[0]
        while waiting and max(waiting[0].frames) <= index:
            request = waiting.pop(0)
            yield request, _together(kept, request.frames)
            oldest = min((min(other.frames) for other in waiting), default=index + 1)
            kept = {number: small for number, small in kept.items() if number >= oldest}


def _together(
    kept: dict[int, UInt8[Tensor, "H W 3"] | VideoFault], frames: Sequence[int]
) -> ClipFrames | FrameFault:
    whole = []
    for frame in frames:
        small = kept[frame]
        if isinstance(small, VideoFault):
            return small
        whole.append(small)
    return torch.stack(whole)


def _check_size(path: Path, make: FrameMaker, hw: tuple[int, ...]) -> None:
    if hw != make.source_hw:
        raise VideoFault(
            "The video's frames are not of the size that its camera was calibrated for.",
            where=path,
            expected=make.source_hw,
            got=hw,
            fix="Take video and calibration of one release, then ingest again.",
        )
