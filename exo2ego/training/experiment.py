"""An experiment: everything that decides a training run, as one frozen value with a digest.

A number of the paper is written once: as the default of its field below (or of the model's own
settings, beside the model) if all stages share it, else in the stage's file in exo2ego/experiments.
"""

import difflib
import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import blake3
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from exo2ego.model.align import AlignSettings
from exo2ego.model.condition import ConditionSettings
from exo2ego.model.flow import SigmaSettings
from exo2ego.model.poseinj import PoseInjSettings
from exo2ego.model.wan import LoraSettings
from stores.errors import UserFault

BARE_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""What `--set` takes as a string without quotes."""


class ExperimentFault(UserFault, ValueError):
    """An experiment file or a `--set` that does not say what to train."""


class Settings(BaseModel):
    """A part of an experiment: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimiserSettings(Settings):
    """AdamW and its schedule: linear warm-up, then one half cosine down to `min_lr`."""

    lr: float = Field(
        default=1e-4,
        gt=0,
        description="peak learning rate. Choice: the value is lost in the paper's text",
    )
    min_lr: float = Field(
        default=1e-6, ge=0, description="learning rate at the end. Choice: lost in the paper's text"
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="Adam's (Tables 9 and 10)")
    eps: float = Field(default=1e-8, gt=0, description="Adam's. Choice: lost in the paper's text")
    weight_decay: float = Field(
        default=1e-4,
        ge=0,
        description="decoupled, on all that trains. Choice: lost in the paper's text",
    )
    clip_norm: float = Field(
        default=1.0, gt=0, description="largest gradient norm (Tables 9 and 10)"
    )
    warmup_steps: int = Field(default=200, ge=0, description="linear warm-up (Tables 9 and 10)")
    steps: int = Field(default=100_000, ge=1, description="optimiser steps (3.5, Table 10)")

    @model_validator(mode="after")
    def _falls(self) -> "OptimiserSettings":
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr must not be above lr, but {self.min_lr} is above {self.lr}")
        return self


class BatchSettings(Settings):
    """How many clips a step takes, and how many of them at once."""

    global_batch: int = Field(ge=1, description="clips a step (Tables 9 and 10)")
    micro_batch: int = Field(ge=1, description="clips a forward pass; divides global_batch")

    @model_validator(mode="after")
    def _divides(self) -> "BatchSettings":
        if self.global_batch % self.micro_batch:
            raise ValueError(
                f"global_batch must be micro_batch x accumulation, but {self.global_batch} "
                f"is no multiple of {self.micro_batch}"
            )
        return self

    @property
    def accumulation(self) -> int:
        """Forward passes a step."""
        return self.global_batch // self.micro_batch


class Experiment(Settings):
    """What all stages have in common."""

    stage: Literal["align", "multiexocon", "poseinj"] = Field(description="what trains (3.3, 3.4)")
    seed: int = Field(
        default=0, description="of initial weights, data order, noise and dropout. Choice"
    )
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16",
        description="of arithmetic and frozen weights (Tables 9 and 10); what trains is fp32",
    )
    checkpoint_every: int = Field(
        default=1000, ge=1, description="steps from one checkpoint to the next"
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="newest checkpoints that stay on disk"
    )
    optimiser: OptimiserSettings = Field(default=OptimiserSettings(), description="AdamW, schedule")
    batch: BatchSettings = Field(description="clips a step")

    @property
    def digest(self) -> str:
        """blake3 of the canonical JSON of all values, defaults included."""
        plain = self.model_dump(mode="json")
        return blake3.blake3(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()


class AlignExperiment(Experiment):
    """EgoExo-Align (3.3, 8.2.1)."""

    stage: Literal["align"]
    align: AlignSettings = Field(description="architecture (Table 7)")


class DiffusionExperiment(Experiment):
    """What both stages that train Wan have in common."""

    exo_dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of clips without exo tokens, for guidance. Choice: the paper is silent",
    )
    flow: SigmaSettings = Field(
        default=SigmaSettings(), description="which noise levels are trained"
    )
    condition: ConditionSettings = Field(
        default=ConditionSettings(),
        description="how the predicted first frame becomes Wan's condition",
    )

    @property
    def pose_reads(self) -> str | None:
        """Name of the array that poses come from; None if the generator takes none."""
        return None


class MultiExoConExperiment(DiffusionExperiment):
    """MultiExoCon (3.4.1, 8.2.2): cross-attention to exo tokens, LoRA on self-attention."""

    stage: Literal["multiexocon"]
    lora: LoraSettings = Field(
        default=LoraSettings(),
        description="of the self-attention; poseinj goes on with it (Table 10)",
    )


class PoseInjExperiment(DiffusionExperiment):
    """PoseInj (3.4.2, 8.2.3): rays before the first block, LoRA on self-attention."""

    stage: Literal["poseinj"]
    pose: PoseInjSettings = Field(
        default=PoseInjSettings(), description="how rays meet the hidden state (3.4.2)"
    )

    @property
    def pose_reads(self) -> str | None:
        """The rays of the ego camera."""
        return "ego_rays"


EXPERIMENTS: dict[str, type[Experiment]] = {
    "align": AlignExperiment,
    "multiexocon": MultiExoConExperiment,
    "poseinj": PoseInjExperiment,
}
"""The shape of an experiment, by its stage."""


def experiment_names() -> list[str]:
    """Names of the experiments that come with the package."""
    folder = files("exo2ego") / "experiments"
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml"))


def load_experiment(name_or_path: str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of that name, or in that TOML file, after `key=value` overrides.

    Values are TOML; a bare word is a string. Raises ExperimentFault for what it cannot take.
    """
    tree = _read_toml(name_or_path)
    for override in overrides:
        _put(tree, override)
    return parse_experiment(tree, where=name_or_path)


def parse_experiment(tree: dict[str, Any], *, where: object) -> Experiment:
    """The experiment with these values; `where` is what a fault names as their origin."""
    kind = EXPERIMENTS.get(str(tree.get("stage")))
    if kind is None:
        raise ExperimentFault(
            "This experiment does not say which stage it trains.",
            where=f"{where}, key stage",
            expected=f"one of {', '.join(EXPERIMENTS)}",
            got=tree.get("stage", "nothing"),
            fix='Add a line such as stage = "align".',
        )
    try:
        return kind.model_validate_json(orjson.dumps(tree), strict=True)
    except ValidationError as cause:
        raise _fault_of(cause, kind, where) from cause


def known_keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a model, dotted; of a choice of models, the keys of each."""
    for name, field in kind.model_fields.items():
        parts = [part for part in _flat(field.annotation) if _is_settings(part)]
        if not parts:
            yield prefix + name
        for part in parts:
            yield from known_keys(part, f"{prefix}{name}.")


def _flat(annotation: Any) -> Iterator[Any]:
    """The annotation, or the members of a union or Annotated, however deep."""
    yield annotation
    for part in get_args(annotation):
        yield from _flat(part)


def _is_settings(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def _read_toml(name_or_path: str) -> dict[str, Any]:
    """The tree of a named experiment, or of a file."""
    shipped = files("exo2ego") / "experiments" / f"{name_or_path}.toml"
    source = shipped if name_or_path in experiment_names() else Path(name_or_path)
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
        raise ExperimentFault(
            "This experiment cannot be read.",
            where=name_or_path,
            expected=f"a TOML file, or one of the names {', '.join(experiment_names())}",
            got=f"{type(cause).__name__}: {cause}",
            fix="Give one of the names, or the path of your own file.",
        ) from cause


def _put(tree: dict[str, Any], override: str) -> None:
    """Writes one `key.in.the.tree=value` into the tree."""
    key, equals, text = override.partition("=")
    *path, last = key.strip().split(".")
    for name in path:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise _override_fault(override, f"{name} is a value, not a table")
    if not (equals and last):
        raise _override_fault(override, "no key or no '='")
    tree[last] = _value(override, text.strip())


def _value(override: str, text: str) -> Any:
    """A value in TOML syntax; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as cause:
        if BARE_WORD.fullmatch(text):
            return text
        raise _override_fault(override, f"{text!r}: {cause}") from cause


def _override_fault(override: str, got: str) -> ExperimentFault:
    return ExperimentFault(
        "This override cannot be read.",
        where=f"--set {override}",
        expected="key=value with a TOML value, such as optimiser.steps=50",
        got=got,
        fix="Write tables with dots, and strings in quotes if they are not one bare word.",
    )


def _fault_of(cause: ValidationError, kind: type[Experiment], where: object) -> ExperimentFault:
    """The first of pydantic's complaints, in five parts."""
    first = cause.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    keys = list(known_keys(kind))
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, keys, n=1) or ["one of the known keys"]
        expected, got, fix = ", ".join(keys), f"the unknown key {key}", f"Use {close[0]}."
    else:
        got = "nothing" if first["type"] == "missing" else repr(first["input"])
        expected, fix = first["msg"], f"Mend {key} in the file, or with --set {key}=..."
    return ExperimentFault(
        "This experiment does not fit its stage.",
        where=f"{where}, key {key}",
        expected=expected,
        got=got,
        fix=fix,
    )
