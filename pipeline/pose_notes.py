"""What an ingest notes of a take's two sources of poses, and what it says of them in sum."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol, runtime_checkable

from pipeline.agreement import Difference, PoseSources, pose_agreement
from pipeline.dataset import Dataset, TakeEntry
from pipeline.rejects import TakeRejected

_NOTE = "agreement"


@dataclass(frozen=True)
class AgreementSummary:
    """How far camera_pose and the trajectory's folder put the cameras of a take apart."""

    takes: int
    """Takes that were compared: those of the sample that have both."""
    median: Difference
    """Over the takes, of each take's worst camera and frame."""
    worst: Difference
    worst_take: str
    """The one with the most pixels."""


@runtime_checkable
class TwoSources(Protocol):
    """A dataset whose takes may have poses twice."""

    def pose_sources(self, entry: TakeEntry) -> PoseSources | None:
        """Both sources of the take's poses; None if it has one."""
        ...


def pose_notes(dataset: Dataset, entry: TakeEntry) -> dict[str, Any]:
    """The take's worst difference between its sources; empty if it has one source.

    A damaged source that its clips do not need takes nothing away from them."""
    if not isinstance(dataset, TwoSources):
        return {}
    try:
        sources = dataset.pose_sources(entry)
    except (TakeRejected, OSError):
        return {}
    worst = pose_agreement(sources).worst if sources is not None else None
    return {_NOTE: {"take": entry.take_name, **asdict(worst)}} if worst else {}


def summary_of(notes: Iterable[Mapping[str, Any]]) -> AgreementSummary | None:
    """The takes' differences in sum; None if no take has two sources."""
    found = [dict(note[_NOTE]) for note in notes if _NOTE in note]
    if not found:
        return None
    takes = [str(one.pop("take")) for one in found]
    # a point that one source does not see is as far off as can be, which JSON cannot write
    worst = [Difference(*(float("inf") if x is None else x for x in one.values())) for one in found]
    columns = list(zip(*(tuple(asdict(one).values()) for one in worst), strict=True))
    most = max(range(len(worst)), key=lambda place: worst[place].pixels)
    return AgreementSummary(
        takes=len(found),
        median=Difference(*map(float, map(median, columns))),
        worst=Difference(*map(float, map(max, columns))),
        worst_take=takes[most],
    )
