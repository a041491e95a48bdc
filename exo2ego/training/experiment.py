"""An experiment: everything that decides a training run, as one frozen value with a digest.

A number of the paper is written once: as the default of its field below (or of the model's own
settings, beside the model) if all stages share it, else in the stage's file in exo2ego/experiments.
"""

from typing import Literal

import blake3
import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from exo2ego.model.align import AlignSettings, STTransformerSettings
from exo2ego.model.condition import ConditionSettings
from exo2ego.model.flow import SigmaSettings
from exo2ego.model.multiexocon import MultiExoConSettings
from exo2ego.model.poseinj import PoseInjSettings
from exo2ego.model.poseinj.concat import ConcatSettings
from exo2ego.model.vawan.model import VawanSettings
from exo2ego.model.wan import LoraSettings
from exo2ego.model.wan_memory import TrainingMemory
from exo2ego.training.held_out import HeldOutSettings, NoisyHeldOutSettings
from exo2ego.training.nan_guard import NanSettings


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
    states: Literal["fp32", "8bit"] = Field(
        default="fp32", description="of Adam's two moments; 8bit: bitsandbytes, for large matrices"
    )

    @model_validator(mode="after")
    def _falls(self) -> "OptimiserSettings":
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr must not be above lr, but {self.min_lr} is above {self.lr}")
        return self


class DiffusionOptimiserSettings(OptimiserSettings):
    """What differs where Wan trains."""

    states: Literal["fp32", "8bit"] = Field(
        default="8bit",
        description="of Adam's two moments (Table 10: 8-bit), in 8 bit for large matrices alone",
    )


class BatchSettings(Settings):
    """How many clips a step takes, and how many of them at once."""

    global_batch: int = Field(ge=1, description="clips a step (Tables 9 and 10)")
    micro_batch: int = Field(ge=1, description="clips a forward pass of one process")

    @model_validator(mode="after")
    def _divides(self) -> "BatchSettings":
        if self.global_batch % self.micro_batch:
            raise ValueError(
                f"global_batch must be processes x micro_batch x accumulation, but "
                f"{self.global_batch} is no multiple of {self.micro_batch}"
            )
        return self

    @property
    def accumulation(self) -> int:
        """Forward passes a step of all processes together."""
        return self.global_batch // self.micro_batch


class Experiment(Settings):
    """What all stages have in common."""

    stage: Literal["align", "multiexocon", "poseinj", "vawan"] = Field(
        description="what trains (3.3, 3.4, 4.1)"
    )
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
    keep_best: bool = Field(
        default=True, description="whether the one of lowest held-out loss stays, too. Choice"
    )
    held_out: HeldOutSettings = Field(
        default=HeldOutSettings(), description="the loss of clips that are not trained on"
    )
    nan: NanSettings = Field(
        default=NanSettings(), description="steps whose loss or gradient is not a number"
    )
    optimiser: OptimiserSettings = Field(default=OptimiserSettings(), description="AdamW, schedule")
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of averaged weights that stays at each step; 0: none are kept. Choice",
    )
    compile: Literal["none", "blocks"] = Field(
        default="none", description="blocks: torch.compile of each transformer block"
    )
    batch: BatchSettings = Field(description="clips a step")

    @property
    def activations_on_host(self) -> bool:
        """Whether activations wait in the host's memory for the backward pass."""
        return False

    @property
    def digest(self) -> str:
        """blake3 of the canonical JSON of all values, defaults included."""
        plain = self.model_dump(mode="json")
        return blake3.blake3(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()


class AlignExperiment(Experiment):
    """EgoExo-Align (3.3, 8.2.1)."""

    stage: Literal["align"]
    align: AlignSettings = Field(
        default=STTransformerSettings(), description="architecture (Table 7; others: Table 3)"
    )


class DiffusionExperiment(Experiment):
    """What all stages that train Wan have in common."""

    optimiser: DiffusionOptimiserSettings = Field(
        default=DiffusionOptimiserSettings(), description="AdamW, schedule"
    )
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
        description="Wan's image condition: its first frame, and what follows it",
    )
    held_out: NoisyHeldOutSettings = Field(
        default=NoisyHeldOutSettings(), description="the loss of clips that are not trained on"
    )
    memory: TrainingMemory = Field(
        default=TrainingMemory(), description="what is kept in full. Choice: the paper had room"
    )

    @property
    def activations_on_host(self) -> bool:
        """Whether activations wait in the host's memory for the backward pass."""
        return self.memory.activations == "host"

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
    exo: MultiExoConSettings = Field(
        default=MultiExoConSettings(),
        description="what exo tokens are beside their embedding; poseinj keeps it (3.4.1)",
    )


class PoseInjExperiment(DiffusionExperiment):
    """PoseInj (3.4.2, 8.2.3): rays before the first block, LoRA on self-attention."""

    stage: Literal["poseinj"]
    pose: PoseInjSettings = Field(
        default=ConcatSettings(), description="how rays meet the hidden state (3.4.2)"
    )

    @property
    def pose_reads(self) -> str | None:
        """The rays of the ego camera."""
        return self.pose.rays


class VawanExperiment(DiffusionExperiment):
    """VAWAN, the baseline (4.1): exo videos on the channels of Wan's input."""

    stage: Literal["vawan"]
    vawan: VawanSettings = Field(
        default=VawanSettings(), description="channels, poses, and what trains (Tables 1, 5, 6)"
    )

    @property
    def pose_reads(self) -> str | None:
        """What its form of pose conditioning reads."""
        return self.vawan.pose.reads


EXPERIMENTS: dict[str, type[Experiment]] = {
    "align": AlignExperiment,
    "multiexocon": MultiExoConExperiment,
    "poseinj": PoseInjExperiment,
    "vawan": VawanExperiment,
}
"""The shape of an experiment, by its stage."""
