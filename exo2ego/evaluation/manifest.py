"""The manifest of a folder of samples: what decides them all, and what each clip has."""

from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
    stage: str = Field(description="stage of the run")
    step: int = Field(description="step of the checkpoint")
    weights_digest: str = Field(description="blake3 of the checkpoint's weights")
    first_frames: str | None = Field(
        description="digest of the first frames that a generator was given; none for align"
    )
    evaluation_set: str = Field(description="which clips are meant (test-1: one a take)")
    sampler: SamplerSettings | None = Field(
        description="solver steps, shift, guidance; none for align"
    )
    seed: int | None = Field(description="of the noise, with each clip's id; none for align")
    device: str = Field(description="type of device: another one differs in the last bits")


class SampledClip(BaseModel):
    """One clip that is done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    noise_seed: int | None = Field(description="of this clip's noise; none for align")
    frames: str = Field(description="file of the lossless frames")
    pictures: list[str] = Field(description="files to look at")
    seconds: float = Field(description="time it took")


class Manifest(BaseModel):
    """What lies in a folder of samples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=MANIFEST_FORMAT, description="version of this file")
    settings: SampleSettings = Field(description="what decides every sample")
    clips: dict[str, SampledClip] = Field(default_factory=dict, description="by clip id")
    software: dict[str, str] = Field(description="versions that wrote it")


def read_manifest(out: Path) -> Manifest:
    """The manifest of a folder of samples. Raises SamplesFault if there is none that fits."""
    path = out / MANIFEST
    try:
        manifest = Manifest.model_validate(orjson.loads(path.read_bytes()))
    except (OSError, orjson.JSONDecodeError, ValidationError) as cause:
        raise _not_samples(path, f"{type(cause).__name__}: {cause}") from cause
    if manifest.format != MANIFEST_FORMAT:
        raise _not_samples(path, f"format {manifest.format}")
    return manifest


def start_manifest(out: Path, settings: SampleSettings) -> Manifest:
    """The folder's manifest if it fits these settings, else a new one in a new folder."""
    if not (out / MANIFEST).exists():
        out.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(settings=settings, software=software_versions())
        write_manifest(out, manifest)
        return manifest
    found = read_manifest(out)
    before, now = found.settings.model_dump(), settings.model_dump()
    if wrong := [key for key in now if now[key] != before[key]]:
        raise SamplesFault(
            "This folder holds samples that were made otherwise.",
            where=f"{out}, {', '.join(wrong)}",
            expected=", ".join(f"{key} = {before[key]}" for key in wrong),
            got=", ".join(f"{key} = {now[key]}" for key in wrong),
            fix="Give another --out, or the settings that it was made with.",
        )
    kept = {clip: done for clip, done in found.clips.items() if (out / done.frames).is_file()}
    return found.model_copy(update={"clips": kept})


def write_manifest(out: Path, manifest: Manifest) -> None:
    """Writes the manifest, whole or not at all."""
    write_whole(out / MANIFEST, manifest.model_dump_json(indent=2).encode())


def _not_samples(path: Path, got: str) -> SamplesFault:
    return SamplesFault(
        "This is not a folder of samples.",
        where=path,
        expected=f"a manifest of format {MANIFEST_FORMAT}",
        got=got,
        fix="Make one with `exo2ego sample --store STORE --checkpoint RUN --out FOLDER`.",
    )
