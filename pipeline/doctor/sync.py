"""Whether a take's videos run together: the offset at which expected and seen head motion agree.

The ego camera's poses say how the wearer's head moves across each exo picture; the exo video
shows how it does. Ego poses and ego video are of one clock, so an offset is the exo video's.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, Field

from pipeline.doctor.motion import HeadMotion, head_motion, head_path
from pipeline.video import VideoFault, probe
from stores.index import ClipRow

LARGEST_OFFSET = 15
"""Frames either way that are tried."""
LONGEST_SECONDS = 20.0
"""Of each exo video, around the middle of the take's clips, that are decoded."""
CLEAR_AGREEMENT, CLEAR_LEAD = 0.35, 0.04
"""Least agreement at the best offset, and least lead over offsets further off: docs/doctor.md
says what they let through."""
APART = 3
"""Offsets this near the best one belong to its peak."""
TOLERANCE = 2
"""Frames by which an estimate may be wrong and the videos still run together."""
LEAST_PAIRS = 30
"""Frames that must be compared at an offset, or a view says nothing about it."""
_SMOOTHING = np.array([1.0, 2.0, 2.0, 2.0, 1.0]) / 8


class SyncFinding(BaseModel):
    """What was found about a take's synchronisation; a hint for a person, never a reject."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset_frames: int = Field(description="best offset; positive if the exo videos are late")
    clear: bool = Field(description="False if the best offset hardly differs from others")
    agreement: float = Field(description="correlation at the best offset, from -1 to 1")
    lead: float = Field(description="by how much it is better than offsets further off")
    views: dict[str, int] = Field(description="best offset of each exo view alone")
    frames: int = Field(description="frames looked at")
    trouble: str = Field(default="", description="why nothing could be said")

    @property
    def apart(self) -> bool:
        """True if the videos clearly do not run together."""
        return self.clear and abs(self.offset_frames) > TOLERANCE

    @property
    def words(self) -> str:
        """The finding as a person reads it."""
        if self.trouble:
            return f"not clear ({self.trouble})"
        if not self.clear:
            return "not clear"
        late = "late" if self.offset_frames > 0 else "early"
        count = abs(self.offset_frames)
        return f"exo {count} frames {late}" if count > TOLERANCE else "together"


def check_take(root: Path, rows: Sequence[ClipRow], fps: float) -> SyncFinding:
    """The offset between the ego poses of one take's clips and its exo videos."""
    path = head_path(rows, round(LONGEST_SECONDS * fps))
    motions = []
    try:
        for camera in rows[0].present:
            if camera.video:
                hw = probe(root / camera.video).hw
                motions.append(head_motion(root, camera, path, hw))
    except VideoFault as fault:
        return _nothing(f"{fault.where}: {fault.got}")
    return compare(motions)


def compare(motions: Sequence[HeadMotion]) -> SyncFinding:
    """The offset at which all views together agree best with what the poses say."""
    curves = {motion.cam_id: agreement(motion) for motion in motions}
    telling = {cam_id: curve for cam_id, curve in curves.items() if np.isfinite(curve).all()}
    if not telling:
        return _nothing("the wearer's head is in no exo picture for long enough")
    together = np.mean(list(telling.values()), axis=0)
    best = int(together.argmax())
    others = np.abs(np.arange(len(together)) - best) > APART
    lead = float(together[best] - together[others].max())
    views = {cam_id: int(curve.argmax()) - LARGEST_OFFSET for cam_id, curve in telling.items()}
    is_peak = APART <= best < len(together) - APART  # at the ends it may be the foot of another
    return SyncFinding(
        offset_frames=best - LARGEST_OFFSET,
        clear=bool(is_peak and together[best] >= CLEAR_AGREEMENT and lead >= CLEAR_LEAD),
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


def _nothing(trouble: str) -> SyncFinding:
    return SyncFinding(
        offset_frames=0, clear=False, agreement=0.0, lead=0.0, views={}, frames=0, trouble=trouble
    )
