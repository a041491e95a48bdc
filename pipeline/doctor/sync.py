"""Whether a take's videos run together: the offset at which expected and seen motion agree.

The ego camera's poses say how the wearer's head moves across each exo picture, and how the ego
picture moves when the head turns; the videos show how it does. Each is compared with the poses.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, Field

from pipeline.doctor.gaze import gaze_motion
from pipeline.doctor.motion import HeadMotion, HeadPath, head_motion, head_path
from pipeline.video import VideoFault, probe
from stores.index import CameraRow, ClipRow

LARGEST_OFFSET = 15
"""Frames either way that are tried."""
LONGEST_SECONDS = 20.0
"""Of each video, around the middle of the take's clips, that are decoded."""
CLEAR_AGREEMENT, CLEAR_LEAD = 0.35, 0.04
"""Least agreement at the best offset, and least lead over offsets further off: docs/doctor.md
says what they let through."""
EGO_CLEAR_AGREEMENT = 0.6
"""Least agreement of an ego video: its window is large, so chance agreements are higher."""
APART = 3
"""Offsets this near the best one belong to its peak."""
TOLERANCE = 2
"""Frames by which an estimate may be wrong and the videos still run together."""
LEAST_PAIRS = 30
"""Frames that must be compared at an offset, or a view says nothing about it."""
_SMOOTHING = np.array([1.0, 2.0, 2.0, 2.0, 1.0]) / 8


class Offset(BaseModel):
    """By how many frames videos are late against the ego poses, and how sure that is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset_frames: int = Field(description="best offset; positive if the videos are late")
    clear: bool = Field(description="False if the best offset hardly differs from others")
    agreement: float = Field(description="correlation at the best offset, from -1 to 1")
    lead: float = Field(description="by how much it is better than offsets further off")
    views: dict[str, int] = Field(description="best offset of each view alone")
    frames: int = Field(description="frames looked at")
    trouble: str = Field(default="", description="why nothing could be said")

    @property
    def apart(self) -> bool:
        """True if the videos clearly do not run with the poses."""
        return self.clear and abs(self.offset_frames) > TOLERANCE

    @property
    def words(self) -> str:
        """The offset as a person reads it."""
        if not self.clear:
            return "not clear"
        late = "late" if self.offset_frames > 0 else "early"
        count = abs(self.offset_frames)
        return f"{count} frames {late}" if count > TOLERANCE else "together"

    def line(self, name: str) -> str:
        """A sentence with the numbers, or with why nothing could be said."""
        if self.trouble:
            return f"Sync of {name}: not clear ({self.trouble})."
        return (
            f"Sync of {name} over {self.frames} frames: best offset {self.offset_frames:+d}, "
            f"agreement {self.agreement:.2f}, lead {self.lead:.2f}."
        )


class SyncFinding(BaseModel):
    """What was found about a take's synchronisation; a hint for a person, never a reject."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exo: Offset = Field(description="of the exo videos, all views together")
    ego: Offset | None = Field(description="of the ego video; None if there is none")

    @property
    def offsets(self) -> dict[str, Offset]:
        """Of what was looked at."""
        return {"exo": self.exo} | ({"ego": self.ego} if self.ego else {})

    @property
    def views(self) -> dict[str, int]:
        """Best offset of each view alone, the ego's too."""
        return {cam: late for offset in self.offsets.values() for cam, late in offset.views.items()}

    @property
    def exo_after_ego(self) -> int | None:
        """Frames by which the exo videos are late against the ego video; None if not clear."""
        if self.ego is None or not (self.exo.clear and self.ego.clear):
            return None
        return self.exo.offset_frames - self.ego.offset_frames

    @property
    def apart(self) -> bool:
        """True if a video clearly does not run with the poses."""
        return any(offset.apart for offset in self.offsets.values())

    @property
    def words(self) -> str:
        """The finding as a person reads it."""
        found = {name: offset.words for name, offset in self.offsets.items()}
        if not self.apart and len(set(found.values())) == 1:
            return self.exo.words
        return ", ".join(f"{name} {words}" for name, words in found.items())

    @property
    def lines(self) -> tuple[str, ...]:
        """A sentence on each offset, with its numbers or with why nothing could be said."""
        after = self.exo_after_ego
        between = () if after is None else (f"Exo against ego: {after:+d} frames.",)
        return (*(offset.line(name) for name, offset in self.offsets.items()), *between)


def check_take(root: Path, rows: Sequence[ClipRow], fps: float) -> SyncFinding:
    """The offsets between the ego poses of one take's clips and its videos, exo and ego."""
    path = head_path(rows, round(LONGEST_SECONDS * fps))
    ego = rows[0].ego
    return SyncFinding(
        exo=_offset(root, rows[0].present, path, head_motion, CLEAR_AGREEMENT),
        ego=_offset(root, [ego], path, gaze_motion, EGO_CLEAR_AGREEMENT) if ego.video else None,
    )


def _offset(
    root: Path,
    cameras: Sequence[CameraRow],
    path: HeadPath,
    motion: Callable[[Path, CameraRow, HeadPath, tuple[int, int]], HeadMotion],
    least_agreement: float,
) -> Offset:
    """The offset of the cameras' videos; of nothing if one of them cannot be read."""
    try:
        motions = [
            motion(root, camera, path, probe(root / camera.video).hw)
            for camera in cameras
            if camera.video
        ]
    except VideoFault as fault:
        return _nothing(f"{fault.where}: {fault.got}")
    return compare(motions, least_agreement)


def compare(motions: Sequence[HeadMotion], least_agreement: float = CLEAR_AGREEMENT) -> Offset:
    """The offset at which all views together agree best with what the poses say."""
    curves = {motion.cam_id: agreement(motion) for motion in motions}
    telling = {cam_id: curve for cam_id, curve in curves.items() if np.isfinite(curve).all()}
    if not telling:
        return _nothing("too few frames of which both the poses and the pictures tell the motion")
    together = np.mean(list(telling.values()), axis=0)
    best = int(together.argmax())
    others = np.abs(np.arange(len(together)) - best) > APART
    lead = float(together[best] - together[others].max())
    views = {cam_id: int(curve.argmax()) - LARGEST_OFFSET for cam_id, curve in telling.items()}
    is_peak = APART <= best < len(together) - APART  # at the ends it may be the foot of another
    return Offset(
        offset_frames=best - LARGEST_OFFSET,
        clear=bool(is_peak and together[best] >= least_agreement and lead >= CLEAR_LEAD),
        agreement=float(together[best]),
        lead=lead,
        views=views,
        frames=len(motions[0].change) + 1,
    )


def agreement(motion: HeadMotion) -> Float64[np.ndarray, "offsets"]:
    """Correlation of expected and seen motion at every offset; NaN where too little is known.

    The mean of two: of the signed motion in pixels, and of speed with change of the picture."""
    seen = _smooth(motion.seen_px)
    change = _smooth(motion.change[:, None])
    speed = np.linalg.norm(motion.expected_px, axis=1, keepdims=True)
    offsets = range(-LARGEST_OFFSET, LARGEST_OFFSET + 1)
    signed = [_correlation(seen, motion.expected_px, offset) for offset in offsets]
    unsigned = [_correlation(change, speed, offset) for offset in offsets]
    return np.mean([signed, unsigned], axis=0)


def _correlation(
    late: Float64[np.ndarray, "n k"], early: Float64[np.ndarray, "n k"], offset: int
) -> float:
    """Correlation of late[frame + offset] with early[frame] over the frames that both have."""
    count = len(late)
    late = late[max(0, offset) : count + min(0, offset)]
    early = early[max(0, -offset) : count - max(0, offset)]
    known = np.isfinite(late).all(axis=1) & np.isfinite(early).all(axis=1)
    if known.sum() < LEAST_PAIRS:
        return float("nan")
    late = late[known] - late[known].mean(axis=0)
    early = early[known] - early[known].mean(axis=0)
    scale = np.sqrt((late**2).sum() * (early**2).sum())
    return float((late * early).sum() / scale) if scale > 0 else 0.0


def _smooth(signal: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, "n k"]:
    """The signal averaged over neighbours: expected motion is no sharper between known poses."""
    if len(signal) < len(_SMOOTHING):
        return np.full_like(signal, np.nan)
    columns = [np.convolve(column, _SMOOTHING, "same") for column in signal.T]
    return np.stack(columns, axis=1)


def _nothing(trouble: str) -> Offset:
    return Offset(
        offset_frames=0, clear=False, agreement=0.0, lead=0.0, views={}, frames=0, trouble=trouble
    )
