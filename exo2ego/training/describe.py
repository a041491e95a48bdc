"""What an experiment is, without loading weights: parameters, tokens, FLOPs, memory, step time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from exo2ego.geometry.clip_points import ALIGN_DEPTHS
from exo2ego.model.wan_memory import spare_training_memory
from exo2ego.training.build import Origin, frozen_dtype, trained_parameters
from exo2ego.training.experiment import DiffusionExperiment, Experiment
from exo2ego.training.meta_count import PassCount, count_pass
from exo2ego.training.optimiser import state_bytes
from exo2ego.training.parallel import Sharing, blocks_of
from exo2ego.training.stages import STAGES, clip_generator
from stores.errors import UserFault
from stores.schema import ClipShape
from stores.stream import ClipBatch, find_read

FP32_BYTES, BF16_BYTES, GB, TERA = 4, 2, 1e9, 1e12


class MachineFault(UserFault, ValueError):
    """GPUs that do not fit the experiment."""


@dataclass(frozen=True)
class Part:
    """One module at the top of a model, or inside Wan."""

    name: str
    parameters: int
    trained: int


@dataclass(frozen=True)
class Machine:
    """What a run is to be done with."""

    gpus: int = 1
    memory_gb: float = 141.0
    tflops: float = 790.0
    """Of a GPU's matrix products in the experiment's precision; 790: an H200 in bf16."""
    parallel: Sharing = "ddp"
    """How several GPUs share the model."""


@dataclass(frozen=True)
class Description:
    """What `exo2ego describe` says. Memory is of one GPU, in 10^9 bytes."""

    stage: str
    digest: str
    parts: tuple[Part, ...]
    parameters: int
    trained: int
    ego_tokens: int
    exo_tokens: int
    clips_a_gpu: int
    tflop_a_step: float
    """Of one GPU: forward and backward of its clips, and what checkpointing runs again."""
    weights_gb: float
    copies_gb: float
    """bf16 copies of what trains in fp32, which autocast makes."""
    gradients_gb: float
    optimiser_gb: float
    activations_gb: float
    total_gb: float
    fits: bool
    seconds_a_step: float
    """If the GPU's matrix units were always busy: the least that a step can take."""

    @property
    def words(self) -> str:
        """The same as text: a table of parts, then a line each."""
        width = max(len(part.name) for part in self.parts)
        lines = [f"stage {self.stage}, experiment {self.digest[:12]}", ""]
        lines += [
            f"  {part.name:<{width}}  {part.parameters:>14,}  "
            + (f"{part.trained:,} train" if part.trained else "frozen")
            for part in self.parts
        ]
        lines += [
            "",
            f"{self.parameters:,} parameters, of which {self.trained:,} train",
            f"{self.ego_tokens:,} tokens of the ego video, {self.exo_tokens:,} of the exo videos",
            f"{self.clips_a_gpu} clips a GPU and pass, {self.tflop_a_step:.1f} TFLOP a step: "
            f"{self.seconds_a_step:.3f} s at the least",
            f"memory of a GPU: weights {self.weights_gb:.1f} GB, their bf16 copies "
            f"{self.copies_gb:.1f}, gradients {self.gradients_gb:.1f}, optimiser "
            f"{self.optimiser_gb:.1f}, activations {self.activations_gb:.1f}",
            f"together {self.total_gb:.1f} GB: "
            + ("fits" if self.fits else "does not fit (smaller batch.micro_batch, or more memory)"),
        ]
        return "\n".join(lines)


def describe(
    experiment: Experiment,
    *,
    clip: ClipShape,
    wan_spec: str | None = None,
    machine: Machine | None = None,
) -> Description:
    """What training the experiment takes, from its shapes alone.

    `wan_spec` None is the published 14B. The optimiser is as the trainer makes it. Activations are
    counted with attention as fused kernels keep it; what torch's allocator wastes and what kernels
    need for the moment is not in it. Raises what building the model for training raises.
    """
    machine = machine or Machine()
    _check_share(experiment, machine)
    stage = STAGES[experiment.stage]
    origin = Origin(experiment, wan_spec, None, "meta", blank=True)
    model = stage.build(origin).model.train()
    trained = trained_parameters(model)
    checkpointed = _spare(experiment, model)
    count = sum(parameter.numel() for parameter in trained.values())
    passes = _count(experiment, model, clip, checkpointed)
    times = experiment.batch.accumulation // machine.gpus
    flops = (passes.forward_flops + passes.backward_flops + passes.again_flops) * times
    memory = _memory(experiment, model, trained, machine)
    waits = experiment.activations_on_host
    memory["activations_gb"] = 0.0 if waits else passes.saved_bytes / GB
    total = sum(memory.values())
    tokens = clip.latent().frames * clip.latent().token_hw[0] * clip.latent().token_hw[1]
    return Description(
        stage=experiment.stage,
        digest=experiment.digest,
        parts=tuple(_parts(model, trained)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained=count,
        ego_tokens=tokens,
        exo_tokens=clip.views * tokens,
        clips_a_gpu=experiment.batch.micro_batch,
        tflop_a_step=flops / TERA,
        **memory,
        total_gb=total,
        fits=total <= machine.memory_gb,
        seconds_a_step=flops / TERA / machine.tflops,
    )


def _memory(
    experiment: Experiment,
    model: nn.Module,
    trained: dict[str, nn.Parameter],
    machine: Machine,
) -> dict[str, float]:
    """What a GPU holds beside activations.

    With FSDP2 its part of everything, two blocks whole (the one at work, and the next one), and
    all bf16 copies, which autocast keeps.
    """
    count = sum(parameter.numel() for parameter in trained.values())
    parts = machine.gpus if machine.parallel == "fsdp" else 1
    blocks = [_weight_bytes(block) for block in blocks_of(model)]
    at_work = 2 * max(blocks, default=0) if parts > 1 else 0
    states = sum(state_bytes(p.shape, experiment.optimiser) for p in trained.values())
    return {
        "weights_gb": (_weight_bytes(model) / parts + at_work) / GB,
        "copies_gb": BF16_BYTES * count / GB if experiment.precision == "bf16" else 0.0,
        "gradients_gb": FP32_BYTES * count / parts / GB,
        "optimiser_gb": states / parts / GB,
    }


def _weight_bytes(module: nn.Module) -> int:
    """Of its weights; those that train are in fp32."""
    return sum(
        p.numel() * (FP32_BYTES if p.requires_grad else p.element_size())
        for p in module.parameters()
    )


def _check_share(experiment: Experiment, machine: Machine) -> None:
    """Raises MachineFault unless the GPUs share the global batch evenly."""
    batch = experiment.batch
    if batch.accumulation % machine.gpus:
        raise MachineFault(
            "These GPUs cannot share the global batch.",
            where="batch.global_batch",
            expected=f"a multiple of micro_batch x GPUs = {batch.micro_batch} x {machine.gpus}",
            got=batch.global_batch,
            fix="Change batch.global_batch or batch.micro_batch with --set, or the number of GPUs.",
        )


def _spare(experiment: Experiment, model: nn.Module) -> list[nn.Module]:
    """Keeps the weights as training does; the blocks whose activations it makes again."""
    if not isinstance(experiment, DiffusionExperiment):
        return []
    wan = cast(Any, model).wan
    spare_training_memory(wan, experiment.memory)
    wan.disable_gradient_checkpointing()  # it knows no meta tensors: `count_pass` reckons it
    return list(wan.blocks) if experiment.memory.checkpointing else []


def _count(
    experiment: Experiment, model: nn.Module, clip: ClipShape, checkpointed: list[nn.Module]
) -> PassCount:
    """One pass of a micro-batch."""
    stage, clips = STAGES[experiment.stage], experiment.batch.micro_batch
    batch = blank_batch(stage.reads(experiment), clip, clips)
    generators = [clip_generator(0, 0, clip_id) for clip_id in batch.clip_ids]

    def run() -> Tensor:
        return stage.losses(model, batch, generators, experiment).mean()

    return count_pass(run, model, frozen_dtype(experiment), checkpointed)


def blank_batch(reads: Sequence[str], clip: ClipShape, clips: int) -> ClipBatch:
    """A batch without numbers, of the shapes that a stream gives."""
    sizes, arrays = clip.sizes() | {"depth": ALIGN_DEPTHS}, {}
    for read in reads:
        if (found := find_read(read)) is None:
            raise ValueError(f"a stream cannot read {read}")
        _, spec, first_frame = found
        _, axes = spec.stream_axes(first_frame=first_frame)
        shape = [clips, *(sizes[axis] for axis in axes)]
        arrays[read] = torch.empty(shape, dtype=torch.float16, device="meta")
    views = [tuple(range(clip.views))] * clips
    return ClipBatch([f"clip {number}" for number in range(clips)], arrays, views)


def _parts(model: nn.Module, trained: dict[str, nn.Parameter]) -> list[Part]:
    """Modules two levels deep, one of a list for all of it, LoRA apart."""
    found: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        part = _part_name(name)
        sizes = found.setdefault(part, [0, 0])
        sizes[0] += parameter.numel()
        sizes[1] += parameter.numel() if name in trained else 0
    return [Part(name, *sizes) for name, sizes in found.items()]


def _part_name(name: str) -> str:
    """`wan.blocks.*.attn1`, `wan.patch_embedding`, `exo_tokens.embed`, ..."""
    if ".lora_" in name:
        return "LoRA"
    words = ["*" if word.isdigit() else word for word in name.split(".")[:-1]]
    depth = words.index("*") + 2 if "*" in words else 2
    return ".".join(words[:depth]) or name
