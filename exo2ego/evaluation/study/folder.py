"""What a study's folder holds: blinded samples, their videos, and the key that is never served.

STUDY/study.json    Study: samples in no meaningful order, videos by meaningless names
STUDY/videos/       one mp4 a name, all of the same size
STUDY/key.json      Key: which clip and which method each is; the server does not open it
STUDY/votes.sqlite  Ballots (ballots.py)
"""

from pathlib import Path
from typing import Any, TypeVar

import blake3
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exo2ego.evaluation.manifest import SampleSettings
from stores.errors import UserFault

STUDY, KEY, VIDEOS, BALLOTS = "study.json", "key.json", "videos", "votes.sqlite"
STUDY_FORMAT = 1
"""Version of study.json and key.json; a reader refuses another one."""


class StudyFault(UserFault, ValueError):
    """A study that cannot be made, served or scored as it is."""


class BlindSample(BaseModel):
    """One row of three videos, by their names: nothing here tells the methods apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="random")
    reference: str = Field(description="the true ego video")
    candidates: tuple[str, str] = Field(description="the two methods' videos, sorted by name")


class Study(BaseModel):
    """All that serving a study needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=STUDY_FORMAT, description="version of this file")
    study_id: str = Field(description="random; key and votes carry the same")
    samples: tuple[BlindSample, ...] = Field(description="sorted by id")
    digests: dict[str, str] = Field(description="blake3 of each video, by its name")


class Method(BaseModel):
    """Where one of the two methods' videos came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = Field(description="the folder of samples")
    manifest_digest: str = Field(description="blake3 of its manifest")
    settings: SampleSettings = Field(description="what decided its samples")


class KeyEntry(BaseModel):
    """What one sample is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clip_id: str = Field(description="the clip")
    category: str = Field(description="its category")
    ours: str = Field(description="name of our video")
    baseline: str = Field(description="name of the baseline's video")


class Key(BaseModel):
    """What the blinded samples are; only scoring reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=STUDY_FORMAT, description="version of this file")
    study_id: str = Field(description="the study that this is the key of")
    seed: int = Field(description="of the choice of clips")
    per_category: int = Field(description="samples a category")
    store_hash: str = Field(description="the store: truth, and what both methods were given")
    ours: Method = Field(description="the method that is tested")
    baseline: Method = Field(description="the method that it is compared with")
    entries: dict[str, KeyEntry] = Field(description="by the sample's id")
    software: dict[str, str] = Field(description="versions that built the study")


def read_study(folder: Path) -> Study:
    """The blinded samples of a study. Raises StudyFault if `folder` holds none that fits."""
    return _read(folder / STUDY, Study)


def read_key(folder: Path, study: Study) -> Key:
    """The key of `study`. Raises StudyFault if it is missing or that of another study."""
    key = _read(folder / KEY, Key)
    if key.study_id == study.study_id and key.entries.keys() == {s.id for s in study.samples}:
        return key
    raise StudyFault(
        "This key belongs to another study.",
        where=folder / KEY,
        expected=f"study {study.study_id}, {len(study.samples)} samples",
        got=f"study {key.study_id}, {len(key.entries)} samples",
        fix="Put back the key.json that `exo2ego study build` wrote with this study.json.",
    )


def read_videos(folder: Path, study: Study) -> dict[str, bytes]:
    """Every video of the study, by name: the bytes that were built, or a StudyFault."""
    videos, wrong = {}, []
    for name, digest in study.digests.items():
        path = folder / VIDEOS / f"{name}.mp4"
        videos[name] = path.read_bytes() if path.is_file() else b""
        if blake3.blake3(videos[name]).hexdigest() != digest:
            wrong.append(f"{path.name} ({'altered' if videos[name] else 'missing'})")
    if wrong:
        raise StudyFault(
            "Videos of this study are not those that were built.",
            where=folder / VIDEOS,
            expected=f"{len(study.digests)} videos as built",
            got=f"{len(wrong)} others: {', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}",
            fix="Copy the whole folder of the study again from where it was built.",
        )
    return videos


Model = TypeVar("Model", Study, Key)


def _read(path: Path, model: type[Model]) -> Model:
    try:
        found: Any = orjson.loads(path.read_bytes())
        if isinstance(found, dict) and found.get("format") != STUDY_FORMAT:
            raise _not_a_study(path, f"format {found.get('format')}")
        return model.model_validate(found)
    except (OSError, orjson.JSONDecodeError, ValidationError) as cause:
        raise _not_a_study(path, f"{type(cause).__name__}: {cause}") from cause


def _not_a_study(path: Path, got: str) -> StudyFault:
    return StudyFault(
        "This is not a study, or not one of this version.",
        where=path,
        expected=f"a {path.name} of format {STUDY_FORMAT}",
        got=got,
        fix="Make one: `exo2ego study build --ours A --baseline B --store S --out FOLDER`.",
    )
