"""What a study's folder holds, and all of it that serving needs; the key is key.py's.

STUDY/study.json    Study: samples in no meaningful order, videos by meaningless names
STUDY/videos/       one mp4 a name, all of the same size
STUDY/key.json      Key (key.py): which clip and method each is; the server does not open it
STUDY/votes.sqlite  Ballots (ballots.py)
"""

from pathlib import Path
from typing import Any, TypeVar

import blake3
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stores.errors import UserFault

STUDY, VIDEOS, BALLOTS = "study.json", "videos", "votes.sqlite"
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


def read_study(folder: Path) -> Study:
    """The blinded samples of a study. Raises StudyFault if `folder` holds none that fits."""
    return read_model(folder / STUDY, Study)


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


Model = TypeVar("Model", bound=BaseModel)


def read_model(path: Path, model: type[Model]) -> Model:
    """One of the study's JSON files. Raises StudyFault if it is none, or of another format."""
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
