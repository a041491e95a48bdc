"""Ego frames by a generator of velocities: MultiExoCon, PoseInj and VAWAN."""

from collections.abc import Sequence
from typing import Any, cast

import blake3
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from exo2ego.evaluation.filming import Film, Filming, shown_frames
from exo2ego.evaluation.first_conditions import open_conditions
from exo2ego.model.sampling import VideoGenerator, sample
from exo2ego.model.wan_memory import MemorySettings, spare_memory
from exo2ego.training.experiment import DiffusionExperiment
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.stages import CONDITION, given_of, load_model
from stores.stream import ClipBatch


def noise_seed(seed: int, clip_id: str) -> int:
    """Seed of one clip's noise."""
    digest = blake3.blake3(f"sample/{seed}/{clip_id}".encode()).digest(length=8)
    return int.from_bytes(digest, "little") >> 1


def generated(filming: Filming) -> Film:
    """Ego frames from each clip's own noise, all clips of a call solved together."""
    where = filming.checkpoint
    experiment = cast(DiffusionExperiment, parse_experiment(filming.state.experiment, where=where))
    conditions = open_conditions(filming, experiment)
    scene, store, pose = filming.scene, filming.store, experiment.pose_reads
    generator = _load_generator(filming)

    def film(clip_ids: Sequence[str]) -> UInt8[Tensor, "b T H W 3"]:
        arrays = {CONDITION: conditions(clip_ids)}
        arrays["exo_latents"] = scene.exo_latents(store, clip_ids)
        if pose:
            arrays[pose] = scene.camera_array(store, pose, clip_ids)
        on_device = {name: value.to(filming.device) for name, value in arrays.items()}
        given = given_of(ClipBatch(list(clip_ids), on_device, []), experiment)
        shape = given.condition.shape[1:]
        noise = torch.stack([clip_noise(filming.seed, clip_id, shape) for clip_id in clip_ids])
        latents = sample(generator, given, noise.to(filming.device), filming.sampler)
        return shown_frames(filming.codec.decode(latents), clip_ids)

    return film


def clip_noise(seed: int, clip_id: str, shape: torch.Size) -> Float[Tensor, "c t h w"]:
    """A clip's own noise, drawn on the CPU: the same on any device, in any batch."""
    drawn = torch.Generator().manual_seed(noise_seed(seed, clip_id))
    return torch.randn(shape, generator=drawn)


def _load_generator(filming: Filming) -> VideoGenerator:
    """The run's generator, its Wan in as much memory as is asked for."""
    spares = filming.memory != MemorySettings()  # then it must not be on the GPU whole, not once
    place = "cpu" if spares else filming.device
    model = load_model(filming.checkpoint, wan_spec=filming.wan_spec, device=place, ema=filming.ema)
    spare_memory(cast(Any, model).wan, filming.memory, filming.device)
    for name, child in model.named_children():
        if name != "wan" or filming.memory.offload == "none":
            nn.Module.to(child, filming.device)
    return cast(VideoGenerator, model)
