"""What each stage trains, built: a fresh model, the pretrained Wan, the parent's weights."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from exo2ego.model.align import build_align
from exo2ego.model.generator import GeneratorSettings, build_generator
from exo2ego.model.vae import weights_digest
from exo2ego.model.wan import blank_wan, load_wan
from exo2ego.training.checkpoint import (
    CheckpointFault,
    CheckpointState,
    Parent,
    WanOrigin,
    find_checkpoint,
    read_state,
    read_weights,
)
from exo2ego.training.experiment import (
    AlignExperiment,
    BatchSettings,
    Experiment,
    MultiExoConExperiment,
    PoseInjExperiment,
)
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.parallel import held, part_of
from stores.errors import UserFault

_USUAL_PARENT = MultiExoConExperiment(
    stage="multiexocon", batch=BatchSettings(global_batch=1, micro_batch=1)
)
"""Stands for a parent that is not read: its LoRA and exo tokens have their default sizes."""
FINGERPRINT_VALUES = 2**20
"""Tensors up to this many values enter Wan's fingerprint: all norms and biases, no matrices."""


class StageFault(UserFault, ValueError):
    """A stage that lacks what it starts from."""


@dataclass(frozen=True)
class Origin:
    """What a stage's model is built from."""

    experiment: Experiment
    wan_spec: str | None
    parent: Path | None
    """A checkpoint, or a run whose newest one is meant."""
    device: str
    blank: bool = False
    """True for a model of the right shapes alone: on meta, no weights and no parent are read."""
    merged_parent: Experiment | None = None
    """The parent's experiment, if Wan holds already what the parent trained (an export)."""


@dataclass(frozen=True, eq=False)
class Built:
    """A stage's model before its first step, and what it came from."""

    model: nn.Module
    wan: WanOrigin | None = None
    parent: Path | None = None
    """Folder of the parent's checkpoint."""


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name, in the model's order."""
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def put_weights(model: nn.Module, weights: dict[str, Tensor], where: Path) -> None:
    """Copies a checkpoint's weights, or a process's part of them, into the model.

    Raises CheckpointFault if one does not fit.
    """
    parameters = dict(model.named_parameters())
    wanted = {name: tuple(p.shape) for name, p in parameters.items() if name in weights}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != given:
        wrong = sorted(name for name in given if wanted.get(name) != given[name])
        raise CheckpointFault(
            "This checkpoint's weights do not fit the model.",
            where=f"{where}, {wrong[0]}",
            expected=wanted.get(wrong[0], "no such parameter"),
            got=given[wrong[0]],
            fix="Give the --wan that the checkpoint was trained with.",
        )
    with torch.no_grad():
        for name, value in weights.items():
            held(parameters[name]).copy_(part_of(parameters[name], value))


def check_wan(wan: WanOrigin | None, state: CheckpointState, where: Path) -> None:
    """Raises CheckpointFault unless this is the Wan that the checkpoint was trained on."""
    if wan is None or state.wan is None or wan.fingerprint == state.wan.fingerprint:
        return
    raise CheckpointFault(
        "This checkpoint was trained on another Wan.",
        where=where,
        expected=f"{state.wan.spec} (fingerprint {state.wan.fingerprint[:12]})",
        got=f"{wan.spec} (fingerprint {wan.fingerprint[:12]})",
        fix="Give the --wan that the checkpoint was trained with.",
    )


def frozen_dtype(experiment: Experiment) -> torch.dtype:
    """Type of the weights that do not train; those that do are fp32."""
    return torch.bfloat16 if experiment.precision == "bf16" else torch.float32


def build_align_stage(origin: Origin) -> Built:
    """EgoExo-Align with fresh weights."""
    experiment = cast(AlignExperiment, origin.experiment)
    with torch.device("meta") if origin.blank else nullcontext():
        model = build_align(experiment.align, initial_draws(experiment))
    return Built(model if origin.blank else model.to(origin.device))


def build_multiexocon_stage(origin: Origin) -> Built:
    """Wan with fresh exo tokens and LoRA."""
    experiment = cast(MultiExoConExperiment, origin.experiment)
    known = experiment.condition.first_frame_known
    settings = GeneratorSettings(lora=experiment.lora, exo=experiment.exo, first_frame_known=known)
    return _build_generator(origin, settings)


def build_poseinj_stage(origin: Origin) -> Built:
    """MultiExoCon's generator with its trained weights, and PoseInj before the first block."""
    experiment = cast(PoseInjExperiment, origin.experiment)
    if origin.blank or origin.merged_parent:
        first = cast(MultiExoConExperiment, origin.merged_parent or _USUAL_PARENT)
        return _build_generator(origin, _poseinj_settings(experiment, first))
    folder = _required_parent(origin.parent)
    state = read_state(folder)
    first = cast(MultiExoConExperiment, parse_experiment(state.experiment, where=folder))
    settings = _poseinj_settings(experiment, first)
    built = _build_generator(origin, settings)
    check_wan(built.wan, state, folder)
    put_weights(built.model, read_weights(folder), folder)
    return replace(built, parent=folder)


def _poseinj_settings(
    experiment: PoseInjExperiment, first: MultiExoConExperiment
) -> GeneratorSettings:
    """PoseInj's own settings, and those that it keeps of the run that it goes on from."""
    return GeneratorSettings(
        lora=first.lora,
        exo=first.exo,
        pose=experiment.pose,
        first_frame_known=experiment.condition.first_frame_known,
    )


def _build_generator(origin: Origin, settings: GeneratorSettings) -> Built:
    """The generator around a fresh Wan."""
    wan, about = pretrained_wan(origin)
    stage = "poseinj" if origin.experiment.stage == "poseinj" else "multiexocon"
    model = build_generator(wan, settings, stage, initial_draws(origin.experiment))
    return Built(model, about)


def pretrained_wan(origin: Origin) -> tuple[WanTransformer3DModel, WanOrigin | None]:
    """Wan as it was published, frozen, and what a checkpoint says of it."""
    if origin.blank:
        return blank_wan(origin.wan_spec, frozen_dtype(origin.experiment)), None
    if origin.wan_spec is None:
        raise StageFault(
            "This stage trains Wan, but no Wan is given.",
            where="--wan",
            expected="the diffusers folder or hub id of Wan2.2-I2V-A14B, or tiny for a dry run",
            got="nothing",
            fix="Pass --wan Wan-AI/Wan2.2-I2V-A14B-Diffusers, or the folder where it lies.",
        )
    dtype = frozen_dtype(origin.experiment)
    wan = load_wan(origin.wan_spec, device=origin.device, dtype=dtype)
    return wan, WanOrigin(spec=origin.wan_spec, fingerprint=wan_fingerprint(wan))


def train_in_fp32(model: nn.Module) -> None:
    """Puts what trains into fp32, as small steps are lost in bf16; to be run under autocast.

    For use, not training, a model stays in the types in which it was built.
    """
    for parameter in trained_parameters(model).values():
        parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, nn.RMSNorm) and module.weight.requires_grad:
            module.register_forward_pre_hook(_in_fp32)


def _in_fp32(_norm: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The norm's input in its weight's type; torch has no quick norm of mixed types."""
    return tuple(value.float() for value in inputs)


def wan_fingerprint(wan: nn.Module) -> str:
    """blake3 of Wan's small tensors, rounded to bf16: tells experts apart in any precision."""
    small = {
        name: value.to(torch.bfloat16)
        for name, value in wan.state_dict().items()
        if value.numel() <= FINGERPRINT_VALUES
    }
    return weights_digest(small)


def parent_of(built: Built, child: Path) -> Parent | None:
    """What a checkpoint in the folder `child` says of its parent."""
    if built.parent is None:
        return None
    digest = read_state(built.parent).weights_digest
    return Parent.between(child, built.parent, digest)


def _required_parent(parent: Path | None) -> Path:
    """The multiexocon checkpoint that poseinj starts from."""
    if parent is None:
        raise StageFault(
            "Stage poseinj goes on from a multiexocon run, but none is given.",
            where="--from",
            expected="a multiexocon run or one of its checkpoints (3.5)",
            got="nothing",
            fix="Train it with `exo2ego train --stage multiexocon`, then pass --from RUN.",
        )
    folder = find_checkpoint(parent)
    if (stage := read_state(folder).stage) != "multiexocon":
        raise StageFault(
            "Stage poseinj goes on from a multiexocon run.",
            where=folder,
            expected="a checkpoint of stage multiexocon",
            got=f"one of stage {stage}",
            fix="Pass the --out folder of the multiexocon run as --from.",
        )
    return folder


def initial_draws(experiment: Experiment) -> torch.Generator:
    """Where the initial weights come from."""
    return torch.Generator().manual_seed(experiment.seed)
