"""Why a take or a clip is left out: reasons, the exception that carries one, and their table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stores.atomic import whole_file
from stores.errors import StoreFault

REASONS: dict[str, str] = {
    "malformed_entry": "the entry of takes.json lacks fields, or they have another form",
    "bad_name": "a name of the entry would lead out of the dataset's folder",
    "duplicate_take": "another entry has the same take_uid or take_name",
    "dropped": "takes.json says is_dropped",
    "no_split": "splits.json does not name the take",
    "split_without_take": "splits.json names a take that takes.json does not have",
    "not_downloaded": "the take has no folder here",
    "no_ego_camera": "no Aria camera with an rgb video",
    "too_few_exos": "fewer exo cameras with a calibration than a clip has views",
    "missing_video": "a chosen camera's video is not here",
    "unreadable_video": "a chosen camera's video is damaged, cut short or empty",
    "wrong_fps": "a video's frame rate is not the recipe's",
    "frame_counts_differ": "the chosen videos do not have one number of frames",
    "odd_video_size": "a video does not have its calibration's aspect",
    "bad_camera_pose": "the camera_pose file is damaged, or holds no rigid pose where one must be",
    "camera_pose_of_other_take": "the camera_pose file is another take's",
    "video_shorter_than_poses": "camera_pose has poses of frames that the videos lack",
    "no_ego_poses": "neither camera_pose nor a trajectory gives the ego camera's poses",
    "no_frame_times": "neither timesync.csv nor online_calibration.jsonl times the frames",
    "bad_timesync": "timesync.csv is damaged, or its rows do not match the videos' frames",
    "bad_trajectory": "closed_loop_trajectory.csv is damaged",
    "no_ego_calibration": "online_calibration.jsonl is not here, so the ego lens is unknown",
    "bad_ego_calibration": "online_calibration.jsonl is damaged, or its lens is of another kind",
    "bad_exo_calibration": "gopro_calibs.csv is damaged, or an exo camera's lens cannot be had",
    "unreadable_file": "the operating system refused a file of the take",
    "too_short": "no clip fits between the take's first and last frame with poses",
    "missing_pose": "a clip's frame lacks a camera's pose",
    "published_take_absent": "the published list has a take that this root does not list",
    "published_clip_absent": "the published list has a clip that this root's take does not give",
    "published_clip_differs": "frames, cameras or labels of a published clip are others here",
}
"""Code of a reason -> what it means."""


class TakeRejected(Exception):
    """A take cannot be used: a code of REASONS and what was found."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}")


@dataclass(frozen=True, order=True)
class Reject:
    """One take, or one clip of a take, that is left out."""

    take_name: str
    take_uid: str
    clip_id: str
    """Empty when the whole take is left out."""
    reason: str
    """A code of REASONS."""
    detail: str


def write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    """Writes the table of rejects whole, sorted: the old file or the new one, never half of it."""
    columns = pa.schema([(name, pa.string()) for name in Reject.__dataclass_fields__])
    table = pa.Table.from_pylist([asdict(row) for row in sorted(rejects)], columns)
    try:
        with whole_file(path) as file:
            pq.write_table(table, file)
    except OSError as refused:
        raise StoreFault(
            "The table of what is left out cannot be written.",
            where=path,
            expected="a folder that can be written, with room for it",
            got=refused.strerror or str(refused),
            fix="Make room and run again; finished takes are kept.",
        ) from refused


def read_rejects(path: Path) -> list[Reject]:
    """The rejects that `write_rejects` wrote."""
    return [Reject(**row) for row in pq.read_table(path).to_pylist()]
