"""Which cameras of a take a clip shows, and whether its videos fit each other and their lenses."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from exo2ego.geometry.kannala_brandt import KannalaBrandt
from exo2ego.geometry.lenses import Lens
from pipeline.rejects import TakeRejected
from pipeline.takes import TakeRecord
from pipeline.video import VideoHeader
from stores.recipe import ClipRecipe

EGO_STREAM, EXO_STREAM = "rgb", "0"
"""Names of the streams that are read: Aria's colour camera, a GoPro's only one."""
_EGO_PREFIX = "aria"
_FPS_SLACK = 0.01
_ASPECT_SLACK, _ROUNDING_PX = 0.01, 2.0  # ffmpeg's `scale` makes sides even
_CENTRE_SLACK = 0.1


def choose_ego(record: TakeRecord) -> str:
    """The first Aria with a colour video; Choice: by name, where a take has two."""
    for cam_id in sorted(record.frame_aligned_videos):
        if cam_id.startswith(_EGO_PREFIX) and record.video_of(cam_id, EGO_STREAM) is not None:
            return cam_id
    raise TakeRejected(
        "no_ego_camera", f"cameras: {', '.join(sorted(record.frame_aligned_videos))}"
    )


def choose_exos(
    record: TakeRecord, recipe: ClipRecipe, calibrated: Collection[str], refused: Mapping[str, str]
) -> list[str]:
    """The exo views among the calibrated cameras that nobody wears.

    `refused` says why a camera has no calibration. Whether a video lies on disk does not count:
    an incomplete copy must not change the choice."""

    def why_not(cam_id: str) -> str | None:
        fault = _why_not(record, cam_id)
        if fault is None and cam_id not in calibrated:
            return refused.get(cam_id, "no calibration")
        return fault

    exos = [cam for cam in record.frame_aligned_videos if not cam.startswith(_EGO_PREFIX)]
    return choose_views(exos, recipe, why_not)


def choose_views(
    cam_ids: Iterable[str], recipe: ClipRecipe, why_not: Callable[[str], str | None]
) -> list[str]:
    """The recipe's `view_ids`, or the first `views` of the sorted ids; the reference is first.

    Without those that `why_not` has something against. Rejects the take if fewer than the
    recipe's `min_views` are left."""
    faults = {cam: why_not(cam) for cam in recipe.view_ids or sorted(cam_ids)}
    chosen = [cam for cam, fault in faults.items() if fault is None]
    if len(chosen) < recipe.min_views:
        found = f"{len(chosen)} of {recipe.min_views}: {', '.join(chosen) or 'none'}"
        refused = [f"{cam}: {fault}" for cam, fault in faults.items() if fault is not None]
        raise TakeRejected("too_few_exos", "; ".join([found, *refused]))
    return chosen[: recipe.views]


def synchronised_frames(headers: Mapping[str, VideoHeader], fps: float) -> int:
    """Frames of every video. Rejects the take if rates or counts differ."""
    for cam_id, header in headers.items():
        if abs(header.fps - fps) > _FPS_SLACK:
            raise TakeRejected("wrong_fps", f"{cam_id}: {header.fps:g}, not {fps:g}")
    counts = {cam_id: header.frames for cam_id, header in headers.items()}
    if len(set(counts.values())) != 1:
        raise TakeRejected("frame_counts_differ", str(counts))
    return next(iter(counts.values()))


def lens_of_video(lens: Lens, video_hw: tuple[int, int], cam_id: str) -> Lens:
    """The lens for frames of the video's size. Rejects the take if the aspects differ."""
    off_px = abs(video_hw[1] - video_hw[0] * lens.hw[1] / lens.hw[0])
    if off_px > max(_ROUNDING_PX, _ASPECT_SLACK * video_hw[1]):
        raise TakeRejected("odd_video_size", f"{cam_id}: video {video_hw}, calibration {lens.hw}")
    return lens.resized(video_hw)


def turned_like_video(lens: KannalaBrandt, video_hw: tuple[int, int]) -> KannalaBrandt:
    """The lens with rows and columns swapped where its own centre says that they are.

    Choice: a portrait GoPro's calibration may still name the landscape size (3840 x 2160)."""
    rows, columns = lens.hw
    lies_as_named = (rows > columns) == (video_hw[0] > video_hw[1])
    off = max(abs(lens.cx / rows - 0.5), abs(lens.cy / columns - 0.5))
    return lens if lies_as_named or off > _CENTRE_SLACK else replace(lens, hw=(columns, rows))


def _why_not(record: TakeRecord, cam_id: str) -> str | None:
    if cam_id.startswith(_EGO_PREFIX):
        return "an ego camera"
    listed = next((cam for cam in record.capture.cameras if cam.cam_id == cam_id), None)
    if record.video_of(cam_id, EXO_STREAM) is None:
        return "no video"
    if listed is None:
        return "not among the capture's cameras"
    return "worn by the participant" if listed.worn else None
