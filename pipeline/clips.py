"""Clips of a take: windows of sampled frames, and the camera of every frame."""

from dataclasses import replace

import numpy as np

from pipeline.dataset import Take
from pipeline.rejects import Reject
from stores.index import CameraRow, ClipRow
from stores.recipe import ClipRecipe

TEST_CENTRAL, TEST_ALL = "test-1", "test-all"
"""Evaluation sets: the central window of each test take, and all windows of test takes."""


def windows(take: Take, recipe: ClipRecipe) -> list[ClipRow]:
    """The take's clips in order: windows inside its task where every camera's pose is known."""
    starts = [start for start in window_starts(take, recipe) if _is_posed(take, recipe, start)]
    if not starts:
        return []
    central = _central(take, recipe, starts)
    return [_clip(take, recipe, start, central) for start in starts]


def window_starts(take: Take, recipe: ClipRecipe) -> range:
    """First source frames of the windows between the first and the last frame with an ego pose.

    Choice: counted from the task's first frame, or the first that has a pose if that is later."""
    first, past = usable_frames(take)
    return range(first, past - recipe.span + 1, recipe.window_step)


def usable_frames(take: Take) -> tuple[int, int]:
    """First frame that a clip may use, and one past the last: the task's, cut to the poses."""
    first, past = take.task_frames or (0, take.frame_count)
    posed = np.flatnonzero(_has_pose(take.ego))
    if not len(posed):
        return first, first
    return max(first, int(posed[0])), min(past, int(posed[-1]) + 1)


def pose_gaps(take: Take, recipe: ClipRecipe) -> list[Reject]:
    """A reject for every window that a gap in the poses spoils."""
    has_pose = _has_pose(take.ego)
    return [
        Reject(
            take.take_name,
            take.take_uid,
            clip_id(take, start),
            "missing_pose",
            f"{take.ego.cam_id}: frames {[f for f in _frames(recipe, start) if not has_pose[f]]}",
        )
        for start in window_starts(take, recipe)
        if not _is_posed(take, recipe, start)
    ]


def clip_id(take: Take, start: int) -> str:
    """Name of the clip whose first frame is `start`."""
    return f"{take.take_name}-f{start:06d}"


def _has_pose(camera: CameraRow) -> np.ndarray:
    return np.asarray(np.isfinite(camera.world_from_cam).all(axis=(1, 2)))


def _frames(recipe: ClipRecipe, start: int) -> list[int]:
    return list(range(start, start + recipe.span, recipe.stride))


def _is_posed(take: Take, recipe: ClipRecipe, start: int) -> bool:
    return bool(_has_pose(take.ego)[_frames(recipe, start)].all())


def _central(take: Take, recipe: ClipRecipe, starts: list[int]) -> int:
    first, past = usable_frames(take)
    return min(starts, key=lambda start: abs(2 * start + recipe.span - first - past))


def _clip(take: Take, recipe: ClipRecipe, start: int, central: int) -> ClipRow:
    frames = _frames(recipe, start)
    absent = (None,) * (recipe.views - len(take.exos))
    sets = (TEST_ALL, TEST_CENTRAL) if start == central else (TEST_ALL,)
    return ClipRow(
        clip_id=clip_id(take, start),
        take_name=take.take_name,
        take_uid=take.take_uid,
        capture_name=take.capture_name,
        participant_uid=take.participant_uid,
        category=take.category,
        split=take.split,
        frames=tuple(frames),
        ego=replace(take.ego, world_from_cam=take.ego.world_from_cam[frames]),
        exos=(*take.exos, *absent),
        sets=tuple(sorted(sets)) if take.split == "test" else (),
    )
