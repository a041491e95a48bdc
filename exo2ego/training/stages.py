"""The stages as data: which arrays each reads, how its model is built, its loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import blake3
import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor, nn

from exo2ego.model.align import align_given, align_reads
from exo2ego.model.align.prediction import AlignGiven
from exo2ego.model.flow import draw_sigmas, noisy_latents, velocity_target
from exo2ego.model.given import Given
from exo2ego.training.build import (
    Built,
    Origin,
    build_align_stage,
    build_multiexocon_stage,
    build_poseinj_stage,
    check_wan,
    put_weights,
)
from exo2ego.training.build_vawan import build_vawan_stage
from exo2ego.training.checkpoint import read_state, read_weights
from exo2ego.training.experiment import AlignExperiment, DiffusionExperiment, Experiment
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.lineage import parent_folder
from stores.stream import ClipBatch

CONDITION = "first_frames/condition"
"""The derived array that all generators are conditioned on."""


@dataclass(frozen=True)
class Stage:
    """One stage of training: the loop takes everything that differs between stages from here."""

    name: str
    reads: Callable[[Experiment], tuple[str, ...]]
    """Arrays of the store, as `ClipStream` names them."""
    build: Callable[[Origin], Built]
    losses: Callable[
        [nn.Module, ClipBatch, Sequence[torch.Generator], Experiment], Float[Tensor, " b"]
    ]
    """Loss of each clip in fp32; the clip's generator gives its noise, timestep and dropout."""
    held_out: Callable[[nn.Module, ClipBatch, float | None, Experiment], Float[Tensor, " b"]]
    """The same at one noise level (None: the stage has none), nothing drawn from a generator."""


def clip_generator(seed: int, step: int, clip_id: str) -> torch.Generator:
    """A generator that depends on these three alone: not on rank, batch, device or history."""
    return noise_generator(f"{seed}/{step}/{clip_id}")


def noise_generator(text: str) -> torch.Generator:
    """A generator that depends on the text alone."""
    digest = blake3.blake3(text.encode()).digest(length=8)
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def load_model(
    checkpoint: Path, *, wan_spec: str | None, device: str, ema: bool = False
) -> nn.Module:
    """The model of a checkpoint folder, with all that it was built on, ready to be used.

    `wan_spec` None means what the run was given; `ema` takes averaged weights. Raises
    CheckpointFault for another Wan, a missing or altered parent, or no averages.
    """
    state = read_state(checkpoint)
    experiment = parse_experiment(state.experiment, where=checkpoint)
    spec = wan_spec if wan_spec is not None or state.wan is None else state.wan.spec
    origin = Origin(experiment, spec, parent_folder(checkpoint, state), device)
    built = STAGES[state.stage].build(origin)
    check_wan(built.wan, state, checkpoint)
    put_weights(built.model, read_weights(checkpoint, ema=ema), checkpoint)
    return built.model.eval().requires_grad_(False)


def arithmetic(precision: str, device: str) -> torch.autocast:
    """The context to run a model in: bf16 with fp32 where torch wants it, or plain fp32."""
    return torch.autocast(
        torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16"
    )


def given_of(
    batch: ClipBatch, experiment: DiffusionExperiment, keep_exo: Bool[Tensor, " b"] | None = None
) -> Given:
    """What the experiment's generator is given of a batch, in float32."""
    pose = experiment.pose_reads
    return Given(
        batch[CONDITION].float(),
        batch["exo_latents"].float(),
        batch[pose].float() if pose else None,
        keep_exo,
    )


def align_given_of(batch: ClipBatch, experiment: AlignExperiment) -> AlignGiven:
    """What the experiment's EgoExo-Align is given of a batch, in float32."""
    return align_given(experiment.align, batch["exo_latents[0]"], batch.arrays)


def _align_reads(experiment: Experiment) -> tuple[str, ...]:
    settings = cast(AlignExperiment, experiment).align
    return ("exo_latents[0]", "ego_latents[0]", *align_reads(settings))


def _generator_reads(experiment: Experiment) -> tuple[str, ...]:
    pose = cast(DiffusionExperiment, experiment).pose_reads
    return ("exo_latents", "ego_latents", CONDITION, *([pose] if pose else []))


def _align_losses(
    model: nn.Module,
    batch: ClipBatch,
    generators: Sequence[torch.Generator],
    experiment: Experiment,
) -> Float[Tensor, " b"]:
    """L1 over the 16 latent channels. Choice: the six ray channels have no loss (docs)."""
    return _align_held_out(model, batch, None, experiment)


def _align_held_out(
    model: nn.Module, batch: ClipBatch, _sigma: float | None, experiment: Experiment
) -> Float[Tensor, " b"]:
    """The loss in training, which draws nothing."""
    prediction = model(align_given_of(batch, cast(AlignExperiment, experiment)))
    error = (prediction.latent.float() - batch["ego_latents[0]"].float()).abs()
    return reduce(error, "b c h w -> b", "mean")


def _generator_losses(
    model: nn.Module,
    batch: ClipBatch,
    generators: Sequence[torch.Generator],
    experiment: Experiment,
) -> Float[Tensor, " b"]:
    """Flow matching: mean squared error of the velocity (paper 3.5: the diffusion objective)."""
    settings = cast(DiffusionExperiment, experiment)
    truth = batch["ego_latents"].float()
    shape, device = truth.shape[1:], truth.device
    sigma = torch.cat([draw_sigmas(1, settings.flow, g) for g in generators]).to(device)
    keep = torch.stack([torch.rand((), generator=g) >= settings.exo_dropout for g in generators])
    noise = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)
    given = given_of(batch, settings, keep.to(device))
    return _velocity_losses(model, truth, noise, sigma, given)


def _generator_held_out(
    model: nn.Module, batch: ClipBatch, sigma: float | None, experiment: Experiment
) -> Float[Tensor, " b"]:
    """Flow matching at one noise level; a clip's noise follows from its id and the level."""
    settings = cast(DiffusionExperiment, experiment)
    truth = batch["ego_latents"].float()
    seeded = (noise_generator(f"held out/{sigma}/{clip_id}") for clip_id in batch.clip_ids)
    noise = torch.stack([torch.randn(truth.shape[1:], generator=g) for g in seeded])
    level = torch.full((len(truth),), cast(float, sigma), device=truth.device)
    return _velocity_losses(model, truth, noise.to(truth.device), level, given_of(batch, settings))


def _velocity_losses(
    model: nn.Module,
    truth: Float[Tensor, "b c t h w"],
    noise: Float[Tensor, "b c t h w"],
    sigma: Float[Tensor, " b"],
    given: Given,
) -> Float[Tensor, " b"]:
    """Mean squared error of the velocity."""
    velocity = model(noisy_latents(truth, noise, sigma), sigma, given)
    error = (velocity.float() - velocity_target(truth, noise)) ** 2
    return reduce(error, "b c t h w -> b", "mean")


_GENERATOR = (_generator_losses, _generator_held_out)
STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("align", _align_reads, build_align_stage, _align_losses, _align_held_out),
        Stage("multiexocon", _generator_reads, build_multiexocon_stage, *_GENERATOR),
        Stage("poseinj", _generator_reads, build_poseinj_stage, *_GENERATOR),
        Stage("vawan", _generator_reads, build_vawan_stage, *_GENERATOR),
    )
}
"""The stages, in the order in which they are trained; the baseline is on its own."""
