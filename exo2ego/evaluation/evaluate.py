"""Scoring a folder of samples against the truth that a store keeps: scores.json, scores.parquet."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import orjson
import torch

from exo2ego.evaluation.bootstrap import LEVEL, RESAMPLES, SEED
from exo2ego.evaluation.clip_choice import ClipChoice, chosen_clips
from exo2ego.evaluation.lpips import Lpips, default_trunk_path, load_lpips
from exo2ego.evaluation.manifest import Manifest, SamplesFault, check_truth, read_manifest
from exo2ego.evaluation.measures import MEASURES, Measured, measure_clip
from exo2ego.evaluation.sample_files import read_frames
from exo2ego.evaluation.score_table import write_table
from exo2ego.evaluation.scores import NOT_MEASURED, Scores, gather
from exo2ego.evaluation.unfinished import Unfinished, open_unfinished
from exo2ego.training.checkpoint import file_digest, software_versions
from stores.atomic import write_whole
from stores.progress import Track, silent
from stores.reading import Store
from stores.version import ABSENT_ROW

MEANS = "take: over the frames of its clips (or its clips); category and overall: over takes"


@dataclass(frozen=True)
class EvaluationPlan:
    """What a call of `evaluate` would do, as one clip showed it."""

    clips: int
    """Clips of the set that have a video."""
    missing: list[str]
    """Clips of the set that have none."""
    device: str
    seconds_a_clip: float
    gpu_hours: float
    """On this device."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A folder of samples that is to be scored."""

    store: Store
    samples: Path
    manifest: Manifest
    choice: ClipChoice
    wanted: list[str]
    trunk: Path | None
    lpips: Lpips | None
    device: str

    @property
    def there(self) -> list[str]:
        """The wanted clips that have a video."""
        return [clip for clip in self.wanted if clip in self.manifest.clips]

    @property
    def missing(self) -> list[str]:
        """The wanted clips that have none."""
        return [clip for clip in self.wanted if clip not in self.manifest.clips]

    def measure(self, clip_id: str) -> Measured:
        """All numbers of one clip. Raises SamplesFault, StoreFault."""
        recipe = self.store.recipe.clips
        path = self.samples / self.manifest.clips[clip_id].frames
        frames = read_frames(path, clip_id, (recipe.frames, *recipe.hw)).to(self.device)
        truth = torch.from_numpy(self.store.read("ego_frames", [clip_id])[0]).to(self.device)
        row, exos = self.store.row(clip_id), None
        if row.rows["exo_frames"] != ABSENT_ROW:
            views = self.store.read("exo_frames", [clip_id])[0, : len(row.present), 0]
            exos = torch.from_numpy(views).to(self.device)
        found = measure_clip(frames, truth, exos, self.lpips)
        if bad := [name for name, values in found.frames.items() if values.isnan().any()]:
            raise _not_a_number(path, clip_id, bad)
        return found

    def run(self, out: Path, track: Track) -> Scores:
        """Scores all, and writes them to `out` and, a row a frame, to the .parquet beside it.

        What was measured before an interruption is not measured again. Raises SamplesFault.
        """
        _check_out(out)
        provenance = self.provenance()
        unfinished = open_unfinished(out, self._basis(provenance))
        measured = self._measured(unfinished, track)
        scores = gather(self.store, measured, self.missing, provenance)
        write_table(out.with_suffix(".parquet"), self.store, measured, provenance)
        write_whole(out, scores.model_dump_json(indent=2).encode())
        unfinished.remove()
        return scores

    def _measured(self, unfinished: Unfinished, track: Track) -> dict[str, Measured]:
        """Every clip that has a video; each is kept as soon as it is done."""
        videos = {clip_id: self._video_digest(clip_id) for clip_id in self.there}
        done = {key[0]: unfinished.known[key] for key in videos.items() if key in unfinished.known}
        left = [clip_id for clip_id in videos if clip_id not in done]
        for clip_id in track(left, total=len(left), what="evaluate", unit="clips"):
            done[clip_id] = self.measure(clip_id)
            unfinished.add(clip_id, videos[clip_id], done[clip_id])
        return {clip_id: done[clip_id] for clip_id in videos}

    def _video_digest(self, clip_id: str) -> str:
        path = self.samples / self.manifest.clips[clip_id].frames
        return file_digest(path) if path.is_file() else "no file"

    def _basis(self, provenance: dict[str, Any]) -> str:
        """Digest of what decides a clip's numbers, but for its video."""
        decides = {**provenance, "manifest_digest": None, "device": torch.device(self.device).type}
        return blake3.blake3(orjson.dumps(decides, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def plan(self) -> EvaluationPlan:
        """What `run` would do: one clip is measured, nothing is written."""
        began = time.perf_counter()
        self.measure(self.there[0])
        seconds, count = time.perf_counter() - began, len(self.there)
        hours = seconds * count / 3600
        return EvaluationPlan(count, self.missing, self.device, seconds, hours)

    def provenance(self) -> dict[str, Any]:
        """What the scores were made of."""
        trunk = file_digest(self.trunk or default_trunk_path()) if self.lpips else NOT_MEASURED
        chosen = {"evaluation_set": self.choice.set_meant, "split": self.choice.split}
        bootstrap = {"resamples": RESAMPLES, "level": LEVEL, "seed": SEED, "over": "takes"}
        return {
            "samples": self.manifest.settings.model_dump(mode="json"),
            "manifest_digest": self.manifest.digest,
            "clips": chosen,
            "method": {name: measure.about for name, measure in MEASURES.items()}
            | {"means": MEANS},
            "intervals": bootstrap,
            "lpips_trunk": trunk,
            "software": software_versions(),
        }


def evaluate(
    store: Store,
    samples: Path,
    *,
    clips: ClipChoice | None = None,
    out: Path | None = None,
    trunk: Path | None = None,
    device: str = "cpu",
    track: Track = silent,
) -> Scores:
    """Scores of the folder `samples`, also written to `out` (its own scores.json by default).

    `clips` None means those that the folder was made for. `trunk` is torchvision's AlexNet;
    without one (there, or in torch's hub folder) LPIPS is "not measured". Clips without a video
    are named, not skipped in silence. Raises SamplesFault for another store, if there is no video
    at all or one that is damaged, StoreFault if the store does not keep the true frames.
    """
    evaluation = open_evaluation(store, samples, clips=clips, trunk=trunk, device=device)
    return evaluation.run(out or samples / "scores.json", track)


def open_evaluation(
    store: Store,
    samples: Path,
    *,
    clips: ClipChoice | None = None,
    trunk: Path | None = None,
    device: str = "cpu",
) -> Evaluation:
    """The evaluation that is to be run or planned; raises what `evaluate` does."""
    manifest = read_manifest(samples)
    settings = manifest.settings
    _check_store(samples, settings.store_hash, store.hash)
    check_truth(samples, settings)
    choice = clips or ClipChoice(settings.evaluation_set, settings.split)
    wanted = chosen_clips(store, choice)
    lpips = load_lpips(trunk, device=device)
    found = Evaluation(store, samples, manifest, choice, wanted, trunk, lpips, device)
    if not found.there:
        raise _no_samples(samples, choice)
    return found


def _check_out(out: Path) -> None:
    if out.suffix != ".json":
        raise SamplesFault(
            "The scores would not lie beside their table.",
            where=f"{out}, --out",
            expected="a name that ends in .json; the table takes the same with .parquet",
            got=out.name,
            fix=f"Give {out.with_suffix('.json')}.",
        )


def _check_store(samples: Path, expected: str, got: str) -> None:
    if expected != got:
        raise SamplesFault(
            "These samples were made from another store.",
            where=samples,
            expected=f"store {expected[:12]}",
            got=f"store {got[:12]}",
            fix=f"Open the store as STORE@{expected[:12]}.",
        )


def _no_samples(samples: Path, choice: ClipChoice) -> SamplesFault:
    return SamplesFault(
        "There is no video to score.",
        where=samples,
        expected=f"samples of {choice.set_meant or choice.split}",
        got="none",
        fix="Run `exo2ego sample` into this folder first.",
    )


def _not_a_number(path: Path, clip_id: str, measures: list[str]) -> SamplesFault:
    return SamplesFault(
        f"The score of {clip_id} is not a number.",
        where=path,
        expected="finite numbers, or an infinite PSNR of equal frames",
        got=f"NaN for {', '.join(measures)}",
        fix="Look at the video; for lpips, at the AlexNet weights.",
    )
