"""Scores of sampled videos against the truth: per clip, take and category, and over all takes.

A take's score is the mean over the frames of its clips, a category's the mean over its takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import blake3
import torch
from jaxtyping import Float64, UInt8
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from exo2ego.evaluation.lpips import Lpips, default_trunk_path, load_lpips
from exo2ego.evaluation.manifest import MANIFEST, SamplesFault, read_manifest
from exo2ego.evaluation.metrics import psnr, ssim
from exo2ego.training.checkpoint import file_digest, software_versions
from stores.atomic import write_whole
from stores.progress import Track, silent
from stores.reading import Store

NOT_MEASURED = "not measured"
METHOD = {
    "psnr": "10 log10(1 / MSE) a frame, frames in [0, 1]; decibels, more is better",
    "ssim": "Gaussian window 11x11, sigma 1.5, valid windows, mean over channels; more is better",
    "lpips": "AlexNet, version 0.1; less is better",
    "means": "take: over the frames of its clips; category and overall: over takes",
}


class Score(BaseModel):
    """The three metrics of something."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    psnr: float = Field(description="decibels; infinite for equal frames")
    ssim: float = Field(description="1 for equal frames")
    lpips: float | Literal["not measured"] = Field(description="0 for equal frames")


class Scores(BaseModel):
    """What scores.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    overall: Score = Field(description="mean over takes")
    categories: dict[str, Score] = Field(description="mean over the category's takes")
    takes: dict[str, Score] = Field(description="mean over the frames of the take's clips")
    clips: dict[str, Score] = Field(description="mean over the clip's frames")
    missing: list[str] = Field(description="clips of the evaluation set that have no video")
    provenance: dict[str, Any] = Field(description="samples, method, weights and software")


@dataclass(frozen=True, eq=False)
class _Frames:
    """The metrics of each frame of a clip."""

    psnr: Float64[Tensor, " n"]
    ssim: Float64[Tensor, " n"]
    lpips: Float64[Tensor, " n"] | None


def evaluate(
    store: Store,
    samples: Path,
    *,
    out: Path | None = None,
    trunk: Path | None = None,
    device: str = "cpu",
    track: Track = silent,
) -> Scores:
    """Scores of the folder `samples`, also written to `out` (its own scores.json by default).

    `trunk` is torchvision's AlexNet; without one (there, or in torch's hub folder) LPIPS is "not
    measured". Clips of the evaluation set without a video are named, not skipped in silence.
    Raises SamplesFault for another store or if there is no video at all, StoreFault if the store
    does not keep the true frames.
    """
    manifest = read_manifest(samples)
    _check_store(samples, manifest.settings.store_hash, store.hash)
    if manifest.settings.camera is not None:
        raise _no_truth(samples)
    wanted = store.select(evaluation_set=manifest.settings.evaluation_set)
    there = [clip for clip in wanted if clip in manifest.clips]
    metric = load_lpips(trunk, device=device)
    frames: dict[str, _Frames] = {}
    for clip_id in track(there, total=len(there), what="evaluate", unit="clips"):
        generated = _read_frames(samples / manifest.clips[clip_id].frames)
        truth = torch.from_numpy(store.read("ego_frames", [clip_id])[0])
        frames[clip_id] = _measure(generated.to(device), truth.to(device), metric)
    if not frames:
        raise _no_samples(samples, manifest.settings.evaluation_set)
    provenance = {
        "samples": manifest.settings.model_dump(),
        "manifest_digest": blake3.blake3((samples / MANIFEST).read_bytes()).hexdigest(),
        "method": METHOD,
        "lpips_trunk": file_digest(trunk or default_trunk_path()) if metric else NOT_MEASURED,
        "software": software_versions(),
    }
    missing = [clip for clip in wanted if clip not in frames]
    scores = _gather(store, frames, missing, provenance)
    write_whole(out or samples / "scores.json", scores.model_dump_json(indent=2).encode())
    return scores


def _measure(
    frames: UInt8[Tensor, "n H W 3"], truth: UInt8[Tensor, "n H W 3"], metric: Lpips | None
) -> _Frames:
    """The metrics of each frame."""
    distance = metric(frames, truth).double().cpu() if metric else None
    return _Frames(psnr(frames, truth).cpu(), ssim(frames, truth).cpu(), distance)


def _gather(
    store: Store, frames: Mapping[str, _Frames], missing: list[str], provenance: dict[str, Any]
) -> Scores:
    """Means over clips, takes and categories."""
    takes: dict[str, list[_Frames]] = {}
    for clip_id, measured in frames.items():
        takes.setdefault(store.row(clip_id).take_name, []).append(measured)
    category_of = {store.row(clip).take_name: store.row(clip).category for clip in frames}
    by_take = {take: _mean_of_frames(clips) for take, clips in takes.items()}
    by_category: dict[str, list[Score]] = {}
    for take, score in by_take.items():
        by_category.setdefault(category_of[take], []).append(score)
    return Scores(
        overall=_mean(list(by_take.values())),
        categories={name: _mean(scores) for name, scores in sorted(by_category.items())},
        takes=by_take,
        clips={clip_id: _mean_of_frames([measured]) for clip_id, measured in frames.items()},
        missing=missing,
        provenance=provenance,
    )


def _mean_of_frames(clips: Sequence[_Frames]) -> Score:
    """Mean over all frames of some clips."""
    distances = [clip.lpips for clip in clips if clip.lpips is not None]
    return Score(
        psnr=torch.cat([clip.psnr for clip in clips]).mean().item(),
        ssim=torch.cat([clip.ssim for clip in clips]).mean().item(),
        lpips=torch.cat(distances).mean().item() if distances else NOT_MEASURED,
    )


def _mean(scores: Sequence[Score]) -> Score:
    """Mean of some scores; LPIPS is not measured if one of them is not."""
    distances = [score.lpips for score in scores if not isinstance(score.lpips, str)]
    return Score(
        psnr=sum(score.psnr for score in scores) / len(scores),
        ssim=sum(score.ssim for score in scores) / len(scores),
        lpips=sum(distances) / len(scores) if len(distances) == len(scores) else NOT_MEASURED,
    )


def _read_frames(path: Path) -> UInt8[Tensor, "T H W 3"]:
    """The lossless frames of a sample. Raises SamplesFault if they cannot be read."""
    try:
        return load_file(path)["frames"]
    except (OSError, SafetensorError, KeyError) as cause:
        raise SamplesFault(
            "This sample cannot be read.",
            where=path,
            expected="a safetensors file with `frames`",
            got=f"{type(cause).__name__}: {cause}",
            fix="Remove the file and run `exo2ego sample` again; the others are kept.",
        ) from cause


def _check_store(samples: Path, expected: str, got: str) -> None:
    if expected != got:
        raise SamplesFault(
            "These samples were made from another store.",
            where=samples,
            expected=f"store {expected[:12]}",
            got=f"store {got[:12]}",
            fix=f"Open the store as STORE@{expected[:12]}.",
        )


def _no_samples(samples: Path, evaluation_set: str | None) -> SamplesFault:
    return SamplesFault(
        "There is no video to score.",
        where=samples,
        expected=f"samples of the set {evaluation_set}",
        got="none",
        fix="Run `exo2ego sample` into this folder first.",
    )


def _no_truth(samples: Path) -> SamplesFault:
    return SamplesFault(
        "There is no truth to score these samples against.",
        where=f"{samples}, camera",
        expected="samples of the clips' own ego cameras",
        got="samples of another path (--camera)",
        fix="Sample without --camera.",
    )
