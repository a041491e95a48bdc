"""A blinded study out of two folders of samples and the store that both were made from."""

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from exo2ego.evaluation.manifest import Manifest, check_truth, read_manifest
from exo2ego.evaluation.picture import write_video
from exo2ego.evaluation.study.ballots import Ballots
from exo2ego.evaluation.study.choosing import choose_clips, shared_clips
from exo2ego.evaluation.study.clip_videos import MTIME, pad_to_one_size, read_frames
from exo2ego.evaluation.study.folder import BALLOTS, STUDY, VIDEOS, BlindSample, Study, StudyFault
from exo2ego.evaluation.study.key import KEY, Key, KeyEntry, Method
from exo2ego.training.checkpoint import file_digest, software_versions
from stores.atomic import disk_faults, write_whole
from stores.progress import Track, silent
from stores.reading import Store

PER_CATEGORY = 25
"""Samples of each category (paper, section 4.1)."""


@dataclass(frozen=True)
class BuildReport:
    """What `build` made."""

    study: Path
    study_id: str
    samples: int
    categories: dict[str, int]
    video_bytes: int
    """Length of each video."""
    left_out: int
    """Clips that only one method has; more than none only with `intersect`."""


def build(
    ours: Path,
    baseline: Path,
    store: Store,
    out: Path,
    *,
    per_category: int = PER_CATEGORY,
    seed: int = 0,
    intersect: bool = False,
    track: Track = silent,
) -> BuildReport:
    """Writes the study `out`, whole or not at all, from clips that both folders have samples of.

    `seed` decides which clips; names, ids and hence all that is blinded come from the system's
    secret randomness, so that nobody who knows the seed knows a side. Raises StudyFault if the
    folders do not fit each other, a video cannot be shown, or `out` is there already.
    """
    manifests = {"ours": read_manifest(ours), "baseline": read_manifest(baseline)}
    _check_comparable(ours, baseline, manifests, store)
    clips = {name: set(manifest.clips) for name, manifest in manifests.items()}
    shared = shared_clips(clips["ours"], clips["baseline"], intersect=intersect)
    category_of = {clip_id: store.row(clip_id).category for clip_id in shared}
    chosen = choose_clips(category_of, per_category, seed)
    partial = _fresh(out)
    folders = {"ours": ours, "baseline": baseline}
    samples, entries = [], {}
    with disk_faults(out):
        for clip_id in track(chosen, total=len(chosen), what="study build", unit="samples"):
            sample, names = _blind(clip_id, partial / VIDEOS, store, folders, manifests)
            samples.append(sample)
            entries[sample.id] = KeyEntry(clip_id=clip_id, category=category_of[clip_id], **names)
        study = Study(
            study_id=secrets.token_hex(16),
            samples=tuple(sorted(samples, key=lambda sample: sample.id)),
            digests=_finish_videos(partial / VIDEOS),
        )
        key = Key(
            study_id=study.study_id,
            seed=seed,
            per_category=per_category,
            store_hash=store.hash,
            ours=_method(ours, manifests["ours"]),
            baseline=_method(baseline, manifests["baseline"]),
            entries=dict(sorted(entries.items())),
            software=software_versions(),
        )
        size = _write_study(partial, out, study, key)
    counts = [category_of[clip_id] for clip_id in chosen]
    return BuildReport(
        out,
        study.study_id,
        len(chosen),
        {name: counts.count(name) for name in sorted(set(counts))},
        size,
        len(clips["ours"] ^ clips["baseline"]),
    )


def _blind(
    clip_id: str,
    videos: Path,
    store: Store,
    folders: dict[str, Path],
    manifests: dict[str, Manifest],
) -> tuple[BlindSample, dict[str, str]]:
    """Writes one clip's three videos under random names; returns the sample, and who is who."""
    frames = {
        name: read_frames(folders[name] / manifest.clips[clip_id].frames)
        for name, manifest in manifests.items()
    } | {"reference": store.read("ego_frames", [clip_id])[0]}
    shapes = {name: video.shape for name, video in frames.items()}
    if len(set(shapes.values())) != 1:
        raise StudyFault(
            "The three videos of a clip differ in frames, height or width.",
            where=f"clip {clip_id}",
            expected=f"the truth's {shapes['reference']}",
            got=f"ours {shapes['ours']}, baseline {shapes['baseline']}",
            fix="Sample both methods from this store, at its own size.",
        )
    names = {name: secrets.token_hex(16) for name in frames}
    recipe = store.recipe.clips
    # in the order of random names, so that not even the order of inodes tells who is who
    for who in sorted(names, key=lambda name: names[name]):
        write_video(videos / f"{names[who]}.mp4", frames[who], recipe.fps / recipe.stride)
    reference = names.pop("reference")
    first, second = sorted(names.values())
    sample = BlindSample(id=secrets.token_hex(16), reference=reference, candidates=(first, second))
    return sample, names


def _finish_videos(videos: Path) -> dict[str, str]:
    """Pads and dates the videos; returns their digests by name."""
    paths = sorted(videos.iterdir())
    pad_to_one_size(paths)
    for path in paths:
        os.utime(path, (MTIME, MTIME))
    return {path.stem: file_digest(path) for path in paths}


def _write_study(partial: Path, out: Path, study: Study, key: Key) -> int:
    """Writes the rest and gives the folder its name; returns the length of a video."""
    write_whole(partial / KEY, key.model_dump_json(indent=2).encode())
    (partial / KEY).chmod(0o600)
    Ballots.create(partial / BALLOTS, study.study_id).close()
    write_whole(partial / STUDY, study.model_dump_json(indent=2).encode())
    if out.exists():
        out.rmdir()
    partial.rename(out)
    return next((out / VIDEOS).iterdir()).stat().st_size


def _fresh(out: Path) -> Path:
    """An empty folder beside `out` to build in. Raises StudyFault if `out` is in use."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StudyFault(
            "A study is not built over something else.",
            where=out,
            expected="no such folder, or an empty one",
            got="a study" if (out / STUDY).exists() else "something else",
            fix="Give another --out. (A study's folder holds its votes.)",
        )
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a build that was stopped
    with disk_faults(out):
        (partial / VIDEOS).mkdir(parents=True)
    return partial


def _method(folder: Path, manifest: Manifest) -> Method:
    return Method(folder=str(folder), manifest_digest=manifest.digest, settings=manifest.settings)


def _check_comparable(
    ours: Path, baseline: Path, manifests: dict[str, Manifest], store: Store
) -> None:
    """Raises StudyFault unless these are two methods on one store, and it is this one."""
    settings = {name: manifest.settings for name, manifest in manifests.items()}
    if settings["ours"] == settings["baseline"]:
        raise StudyFault(
            "Both folders hold the same method's samples.",
            where=f"{ours} and {baseline}",
            expected="two methods",
            got=f"twice {settings['ours'].stage}, step {settings['ours'].step}, "
            f"weights {settings['ours'].weights_digest[:12]}, seed {settings['ours'].seed}",
            fix="Give the other method's folder as --baseline.",
        )
    for folder, name in ((ours, "ours"), (baseline, "baseline")):
        check_truth(folder, settings[name])
        if settings[name].store_hash != store.hash:
            raise StudyFault(
                "These samples were made from another store.",
                where=folder,
                expected=f"store {store.hash[:12]}",
                got=f"store {settings[name].store_hash[:12]}",
                fix=f"Open the store as STORE@{settings[name].store_hash[:12]}, for both methods.",
            )
