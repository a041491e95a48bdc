"""The clips of a result as the report takes them: scores, first frames, measures of the modes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq
import torch

from exo2ego.evaluation.manifest import MANIFEST, Manifest, read_manifest
from exo2ego.evaluation.report.modes import ClipMeasures, first_energy, speed
from exo2ego.evaluation.sample_files import read_frames
from exo2ego.evaluation.scores import Score
from exo2ego.evaluation.tables.result import Result, ResultFault, read_result
from stores.progress import Track, silent
from stores.reading import Store


@dataclass(frozen=True)
class ReportClip:
    """One clip of a result."""

    clip_id: str
    take_name: str
    category: str
    score: Score
    measures: ClipMeasures


@dataclass(frozen=True, eq=False)
class ReportResult:
    """A result with its clips, and its folder of samples if that is there."""

    result: Result
    clips: dict[str, ReportClip]
    samples: Manifest | None

    @property
    def folder(self) -> Path:
        """Where its videos would be."""
        return self.result.path.parent

    @property
    def name(self) -> str:
        """What the report calls it: the folder's name, and the system if it is one of ours."""
        return self.result.path.parent.name or str(self.result.path)

    @cached_property
    def metric(self) -> str:
        """By which clips are ranked: LPIPS where it is measured, else PSNR."""
        scores = [clip.score.lpips for clip in self.clips.values()]
        return "psnr" if any(isinstance(score, str) for score in scores) else "lpips"

    def video(self, clip_id: str) -> Path | None:
        """The clip's video beside exo views and truth; None if there is none."""
        if self.samples is None or clip_id not in self.samples.clips:
            return None
        names = self.samples.clips[clip_id].pictures
        found = [self.folder / name for name in names if name.endswith("side-by-side.mp4")]
        return found[0] if found and found[0].is_file() else None


def read_report_result(path: Path, store: Store | None, track: Track = silent) -> ReportResult:
    """The result at `path` with its clips; a store adds the motion of the truth.

    Raises ResultFault if the table of frames beside it is missing, of other scores, or if the
    store is another one; SamplesFault for a damaged video.
    """
    result = read_result(path)
    folder = result.path.parent
    samples = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    if samples and samples.digest != result.scores.provenance.get("manifest_digest"):
        raise _fault(
            "The scores are not those of the samples beside them.",
            result.path,
            f"manifest {str(result.scores.provenance.get('manifest_digest'))[:12]}",
            f"manifest {samples.digest[:12]}",
        )
    _check_store(result, store)
    rows = _first_rows(result)
    clips = {}
    scored = result.scores.clips
    for clip_id in track(list(scored), total=len(scored), what="report", unit="clips"):
        row = rows[clip_id]
        measures = _measures(row, folder, samples, store)
        take, category = str(row["take_name"]), str(row["category"])
        clips[clip_id] = ReportClip(clip_id, take, category, scored[clip_id], measures)
    return ReportResult(result, clips, samples)


def _measures(
    row: Mapping[str, object], folder: Path, samples: Manifest | None, store: Store | None
) -> ClipMeasures:
    clip_id, energy, moves = str(row["clip_id"]), None, None
    if samples and (folder / samples.clips[clip_id].frames).is_file():
        energy = first_energy(read_frames(folder / samples.clips[clip_id].frames, clip_id))
    if store is not None:
        moves = speed(torch.from_numpy(store.read("ego_frames", [clip_id])[0]))
    return ClipMeasures(float(str(row["psnr"])), energy, moves)


def _first_rows(result: Result) -> dict[str, Mapping[str, object]]:
    """What the table of frames says of each clip's first frame."""
    path = result.path.with_suffix(".parquet")
    columns = ["clip_id", "take_name", "category", "frame", "psnr"]
    if not path.is_file():
        raise _fault("There is no table of frames beside the scores.", path, "a file", "none")
    rows = pq.read_table(path, columns=columns).to_pylist()
    found = {str(row["clip_id"]): row for row in rows if row["frame"] == 0}
    if set(found) != set(result.scores.clips):
        counts = (f"{len(result.scores.clips)} clips", f"{len(found)} clips, or others")
        raise _fault("The table of frames is of other scores.", path, *counts)
    return found


def _check_store(result: Result, store: Store | None) -> None:
    made = result.settings.store_hash
    if store is not None and store.hash != made:
        raise _fault(
            "These samples were made from another store.",
            result.path,
            f"store {made[:12]}",
            f"store {store.hash[:12]}",
            f"Open the store as STORE@{made[:12]}.",
        )


def _fault(
    what: str,
    where: Path,
    expected: str,
    got: str,
    fix: str = "Run `exo2ego evaluate` on the samples again.",
) -> ResultFault:
    return ResultFault(what, where=where, expected=expected, got=got, fix=fix)
