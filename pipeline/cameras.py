"""Which cameras of a take a clip shows: the ego camera, and the first exo views of sorted ids."""

from collections.abc import Collection, Mapping

from pipeline.rejects import TakeRejected
from pipeline.takes import TakeRecord

EGO_STREAM, EXO_STREAM = "rgb", "0"
"""Names of the streams that are read: Aria's colour camera, a GoPro's only one."""
_EGO_PREFIX = "aria"


def choose_ego(record: TakeRecord) -> str:
    """The first Aria with a colour video; Choice: by name, where a take has two."""
    for cam_id in sorted(record.frame_aligned_videos):
        if cam_id.startswith(_EGO_PREFIX) and record.video_of(cam_id, EGO_STREAM) is not None:
            return cam_id
    raise TakeRejected(
        "no_ego_camera", f"cameras: {', '.join(sorted(record.frame_aligned_videos))}"
    )


def choose_exos(
    record: TakeRecord, views: int, calibrated: Collection[str], refused: Mapping[str, str]
) -> list[str]:
    """The first `views` of the sorted ids of calibrated cameras that nobody wears.

    `refused` says why a camera has no calibration. Whether a video lies on disk does not count:
    an incomplete copy must not change the choice. Rejects the take if there are too few."""
    chosen, why_not = [], []
    for cam_id in sorted(record.frame_aligned_videos):
        if cam_id.startswith(_EGO_PREFIX):
            continue
        if fault := _why_not(record, cam_id):
            why_not.append(f"{cam_id}: {fault}")
        elif cam_id not in calibrated:
            why_not.append(f"{cam_id}: {refused.get(cam_id, 'no calibration')}")
        else:
            chosen.append(cam_id)
    if len(chosen) < views:
        found = f"{len(chosen)} of {views}: {', '.join(chosen) or 'none'}"
        raise TakeRejected("too_few_exos", "; ".join([found, *why_not]))
    return chosen[:views]


def _why_not(record: TakeRecord, cam_id: str) -> str | None:
    listed = next((cam for cam in record.capture.cameras if cam.cam_id == cam_id), None)
    if record.video_of(cam_id, EXO_STREAM) is None:
        return "no video"
    if listed is None:
        return "not among the capture's cameras"
    return "worn by the participant" if listed.worn else None
