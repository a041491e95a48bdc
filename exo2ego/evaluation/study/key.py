"""The key of a study: which clip and which method each blinded sample is; only scoring reads it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from exo2ego.evaluation.manifest import SampleSettings
from exo2ego.evaluation.study.folder import STUDY_FORMAT, Study, StudyFault, read_model

KEY = "key.json"


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


def read_key(folder: Path, study: Study) -> Key:
    """The key of `study`. Raises StudyFault if it is missing or that of another study."""
    key = read_model(folder / KEY, Key)
    if key.study_id == study.study_id and key.entries.keys() == {s.id for s in study.samples}:
        return key
    raise StudyFault(
        "This key belongs to another study.",
        where=folder / KEY,
        expected=f"study {study.study_id}, {len(study.samples)} samples",
        got=f"study {key.study_id}, {len(key.entries)} samples",
        fix="Put back the key.json that `exo2ego study build` wrote with this study.json.",
    )
