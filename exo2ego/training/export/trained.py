"""What a run trained, with what its parents trained: LoRA by module of Wan, and everything else."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from pydantic import BaseModel
from torch import Tensor

from exo2ego.model.wan import ADAPTER, LoraSettings
from exo2ego.training.checkpoint import (
    CheckpointFault,
    CheckpointState,
    find_checkpoint,
    read_state,
    read_weights,
)
from exo2ego.training.experiment import Experiment
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.lineage import lineage

WAN = "wan."
"""What names of parameters inside Wan begin with."""
_DOWN, _UP = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"


@dataclass(frozen=True, eq=False)
class Lora:
    """The update of one linear layer: alpha / rank * up @ down."""

    down: Float[Tensor, "rank inner"]
    up: Float[Tensor, "outer rank"]
    alpha: float

    @property
    def scale(self) -> float:
        """What `up @ down` is multiplied by."""
        return self.alpha / self.down.shape[0]


@dataclass(frozen=True, eq=False)
class Trained:
    """The weights that a run's model has beside Wan's own."""

    checkpoint: Path
    states: list[CheckpointState]
    """Of the run's checkpoint and of those it goes on from, the oldest first."""
    lora: dict[str, Lora]
    """By diffusers' name of the module in Wan."""
    other: dict[str, Tensor]
    """By name in the model, as in checkpoints."""

    @property
    def state(self) -> CheckpointState:
        """Of the run's own checkpoint."""
        return self.states[-1]

    @property
    def experiments(self) -> list[Experiment]:
        """Of each state."""
        return [parse_experiment(one.experiment, where=self.checkpoint) for one in self.states]


def read_trained(run: Path, *, ema: bool = False) -> Trained:
    """What the newest checkpoint of a run holds, or a checkpoint, on top of its parents'.

    With `ema` its averaged weights; of its parents those that it started from. Raises
    CheckpointFault if one of them is missing or was altered, or if it has no averages.
    """
    checkpoint = find_checkpoint(run)
    folders = list(lineage(checkpoint))[::-1]
    states = [read_state(folder) for folder in folders]
    weights: dict[str, Tensor] = {}
    for folder in folders:
        weights |= read_weights(folder, ema=ema and folder == folders[-1])
    if ema:
        states[-1] = states[-1].model_copy(update={"weights_digest": states[-1].ema_digest})
    modules = [name.removesuffix(_DOWN) for name in weights if name.endswith(_DOWN)]
    alpha = _alpha(checkpoint, states) if modules else 0.0
    lora = {
        module.removeprefix(WAN): Lora(
            weights.pop(module + _DOWN), weights.pop(module + _UP), alpha
        )
        for module in modules
    }
    return Trained(checkpoint, states, lora, weights)


def _alpha(checkpoint: Path, states: list[CheckpointState]) -> float:
    """The newest experiment's, of those that have a LoRA: a later stage goes on with an older's."""
    for state in reversed(states):
        for settings in _parts(parse_experiment(state.experiment, where=checkpoint)):
            if isinstance(settings, LoraSettings):
                return float(settings.alpha)
    raise CheckpointFault(
        "This checkpoint has LoRA weights, but no experiment of its line says their alpha.",
        where=checkpoint,
        expected="a key alpha beside the LoRA's rank",
        got=[state.stage for state in states],
        fix="Export with the version of exo2ego that trained it (see state.json, software).",
    )


def _parts(settings: BaseModel) -> Iterator[BaseModel]:
    """A model and all models in it."""
    yield settings
    for name in type(settings).model_fields:
        if isinstance(value := getattr(settings, name), BaseModel):
            yield from _parts(value)
