"""The manifest of a folder of samples: what decides them all, and what each clip has.

OUT/manifest.json holds it, and OUT/manifest.2-of-4.json what process 2 of 4 has made: each process
writes a file of its own, and a reader takes them together.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import blake3
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exo2ego.evaluation.camera_path import CameraPath
from exo2ego.evaluation.origin import Origin
from exo2ego.evaluation.shards import ALL, Shard
from exo2ego.model.flow import SamplerSettings
from exo2ego.training.checkpoint import software_versions
from stores.atomic import write_whole
from stores.errors import UserFault

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
"""Version of the manifest; a reader refuses another one."""


class SamplesFault(UserFault, ValueError):
    """A folder of samples that was made otherwise, or is no such folder."""


class SampleSettings(BaseModel):
    """What decides every sample of a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store_hash: str = Field(description="the store")
    stage: str = Field(description="stage of the run, or name of the baseline")
    step: int = Field(description="step of the checkpoint; 0 for a baseline")
    weights_digest: str = Field(
        description="blake3 of the checkpoint's weights, or of what a baseline says of itself"
    )
    first_frames: str | None = Field(
        description="digest of the first frames that a generator was given; none for align"
    )
    evaluation_set: str | None = Field(description="which clips are meant (test-1: one a take)")
    split: str | None = Field(default=None, description="only its clips are meant")
    sampler: SamplerSettings | None = Field(
        description="solver steps, shift, guidance; none for align"
    )
    seed: int | None = Field(description="of the noise, with each clip's id; none for align")
    weights: str | None = Field(
        default="full", description="full, or fp8: Wan's blocks rounded to float8; none for align"
    )
    views: tuple[int, ...] | None = Field(
        default=None, description="numbers of the exo views that were shown; none: all"
    )
    camera: CameraPath | None = Field(
        default=None, description="another path of the ego camera: there is no truth for it"
    )
    first_frames_by: str | None = Field(
        default=None,
        description="weights of the Align that made first frames anew; none: as they are stored",
    )
    baseline: dict[str, Any] | None = Field(
        default=None, description="what a baseline was made of; none for a run's samples"
    )
    origin: Origin | None = Field(
        default=None,
        description="which experiments made them; none for a baseline, and for older folders",
    )
    device: str = Field(description="type of device: another one differs in the last bits")


class SampledClip(BaseModel):
    """One clip that is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise_seed: int | None = Field(description="of this clip's noise; none for align")
    frames: str = Field(description="file of the lossless frames")
    pictures: list[str] = Field(description="files to look at")
    seconds: float = Field(description="time it took, or its share of its batch's")
    batch: int = Field(default=1, description="clips that were solved together with it")
    note: str | None = Field(default=None, description="what a baseline chose for this clip")


class Manifest(BaseModel):
    """What lies in a folder of samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=MANIFEST_FORMAT, description="version of this file")
    settings: SampleSettings = Field(description="what decides every sample")
    clips: dict[str, SampledClip] = Field(default_factory=dict, description="by clip id")
    software: dict[str, str] = Field(description="versions that wrote it")

    @property
    def digest(self) -> str:
        """blake3 of all that it says, in whichever files it stands."""
        plain = self.model_dump(mode="json")
        return blake3.blake3(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def with_clips(self, clips: Mapping[str, SampledClip]) -> "Manifest":
        """The same with these clips beside its own."""
        return self.model_copy(update={"clips": {**self.clips, **clips}})


def read_manifest(out: Path) -> Manifest:
    """The manifest of a folder of samples, of all processes that wrote into it.

    Raises SamplesFault if there is none that fits, or if they made their samples differently.
    """
    parts = {path: _read_part(path) for path in sorted(out.glob("manifest*.json"))}
    if not parts:
        raise _not_samples(out / MANIFEST, "no such file")
    (first, whole), *others = parts.items()
    for path, part in others:
        _check_same(first, whole.settings, path, part.settings)
        whole = whole.with_clips(part.clips)
    return whole


def start_manifest(
    out: Path, settings: SampleSettings, shard: Shard = ALL
) -> tuple[Manifest, set[str]]:
    """What this process has made here before, and all clips that anyone has.

    The folder and this process's file are made if they are not there. Raises SamplesFault if
    the folder's samples were made otherwise.
    """
    path = out / part_name(shard)
    out.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_part(out, Manifest(settings=settings, software=software_versions()), shard)
    whole, own = read_manifest(out), _read_part(path)
    check_settings(out, whole.settings, settings)
    done = {clip for clip, made in whole.clips.items() if (out / made.frames).is_file()}
    kept = {clip: made for clip, made in own.clips.items() if clip in done}
    return own.model_copy(update={"clips": kept}), done


def check_settings(out: Path, before: SampleSettings, now: SampleSettings) -> None:
    """Raises SamplesFault unless a folder's samples were made as they would be now."""
    _check_same(out, before, out, now)


def check_truth(out: Path, settings: SampleSettings) -> None:
    """Raises SamplesFault for samples that no true video shows."""
    if settings.camera is not None:
        raise SamplesFault(
            "There is no truth to hold these samples against.",
            where=f"{out}, camera",
            expected="samples of the clips' own ego cameras",
            got="samples of another path (--camera)",
            fix="Sample without --camera.",
        )


def write_part(out: Path, manifest: Manifest, shard: Shard = ALL) -> None:
    """Writes one process's file, whole or not at all."""
    write_whole(out / part_name(shard), manifest.model_dump_json(indent=2).encode())


def part_name(shard: Shard) -> str:
    """File of one process: the first one's is the manifest itself."""
    return MANIFEST if shard.number == 1 else f"manifest.{shard.number}-of-{shard.count}.json"


def _read_part(path: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate(orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError, ValidationError) as cause:
        raise _not_samples(path, f"{type(cause).__name__}: {cause}") from cause
    if manifest.format != MANIFEST_FORMAT:
        raise _not_samples(path, f"format {manifest.format}")
    return manifest


def _check_same(where: Path, a: SampleSettings, other: Path, b: SampleSettings) -> None:
    # older folders do not know their origin; the digest of the weights says the same
    before, now = (each.model_dump(exclude={"origin"}) for each in (a, b))
    if wrong := [key for key in now if now[key] != before[key]]:
        raise SamplesFault(
            "This folder holds samples that were made otherwise.",
            where=f"{where}, {', '.join(wrong)}" + f", against {other.name}" * (where != other),
            expected=", ".join(f"{key} = {before[key]}" for key in wrong),
            got=", ".join(f"{key} = {now[key]}" for key in wrong),
            fix="Give another --out, or the settings that it was made with.",
        )


def _not_samples(path: Path, got: str) -> SamplesFault:
    return SamplesFault(
        "This is not a folder of samples.",
        where=path,
        expected=f"a manifest of format {MANIFEST_FORMAT}",
        got=got,
        fix="Make one with `exo2ego sample --store STORE --checkpoint RUN --out FOLDER`.",
    )
