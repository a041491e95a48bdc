"""Wan with the training inside it, as a diffusers folder, and what stays beside it; and back.

OUT/transformer_2/         Wan in diffusers' layout: LoRA fused, what trained inside it in place
OUT/exo2ego.safetensors    what has no place in Wan: exo tokens, PoseInj
OUT/exo2ego.json           where it comes from; written last, so a folder with it is whole
"""

from pathlib import Path
from typing import Any

import orjson
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from exo2ego.model.wan import detach_text, load_with_text
from exo2ego.model.wan_expert import LOW_NOISE
from exo2ego.training.build import Origin, check_wan, frozen_dtype, put_weights, wan_fingerprint
from exo2ego.training.checkpoint import WEIGHTS, CheckpointFault, CheckpointState, WanOrigin
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.export.trained import WAN, Trained
from exo2ego.training.export.written import (
    OTHER,
    ExportFault,
    Wish,
    about,
    refuse_overwriting,
    write_tensors,
    writing_faults,
)
from exo2ego.training.stages import STAGES
from stores.atomic import write_whole

ABOUT_FILE = "exo2ego.json"


def write_merged(trained: Trained, wish: Wish) -> list[Path]:
    """Writes Wan with all that was trained in it, and the rest beside it.

    Each update is computed in float32 and rounded once. Raises ExportFault if the run has no Wan.
    """
    files = [wish.out / name for name in (LOW_NOISE, OTHER, ABOUT_FILE)]
    for path in files:
        refuse_overwriting(path)
    said = about(trained, wish.wan_spec)
    wan = _base(trained, wish)
    rest = merge(wan, trained)
    with writing_faults(files[0]):
        wan.save_pretrained(files[0])
    write_tensors(files[1], rest, said)
    write_whole(files[2], orjson.dumps(said, option=orjson.OPT_INDENT_2))
    return files


def load_merged(folder: Path, *, device: str = "cpu") -> nn.Module:
    """The model of an exported folder, ready to be used: what the run's own model gives.

    Raises CheckpointFault if the folder is not whole.
    """
    states, rest = _read(folder)
    experiments = [parse_experiment(state.experiment, where=folder) for state in states]
    parent = experiments[-2] if len(experiments) > 1 else None
    origin = Origin(experiments[-1], str(folder), None, device, merged_parent=parent)
    model = STAGES[states[-1].stage].build(origin).model
    put_weights(model, rest, folder)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def merge(wan: WanTransformer3DModel, trained: Trained) -> dict[str, Tensor]:
    """Puts into Wan what belongs there; returns the rest, by name in the model."""
    parameters = dict(wan.named_parameters())
    for module, lora in trained.lora.items():
        weight = parameters[f"{module}.weight"]
        update = lora.scale * (lora.up.float() @ lora.down.float())
        weight.copy_(weight.float() + update.to(weight.device))
    inside = {
        name: value
        for name, value in trained.other.items()
        if name.startswith(WAN) and name.removeprefix(WAN) in parameters
    }
    for name, value in inside.items():
        parameters[name.removeprefix(WAN)].copy_(value)
    return {name: value for name, value in trained.other.items() if name not in inside}


def _base(trained: Trained, wish: Wish) -> WanTransformer3DModel:
    """The Wan that the run was trained on, whole. Raises CheckpointFault for another one."""
    state = trained.state
    if state.wan is None:
        raise ExportFault(
            "There is no Wan to merge this run into.",
            where=trained.checkpoint,
            expected="a run that trained Wan",
            got=f"one of stage {state.stage}",
            fix=f"Take {trained.checkpoint / WEIGHTS} as it is.",
        )
    spec = wish.wan_spec or state.wan.spec
    wan = load_with_text(spec, dtype=wish.dtype or frozen_dtype(trained.experiments[-1]))
    text = detach_text(wan)
    check_wan(WanOrigin(spec=spec, fingerprint=wan_fingerprint(wan)), state, trained.checkpoint)
    wan.condition_embedder.register_module("text_embedder", text)
    return wan


def _read(folder: Path) -> tuple[list[CheckpointState], dict[str, Tensor]]:
    """The states of a run and its parents as an export says them, and what stays beside Wan."""
    try:
        said: dict[str, Any] = orjson.loads((folder / ABOUT_FILE).read_bytes())
        states = [CheckpointState.model_validate(state) for state in said["states"]]
        return states, load_file(folder / OTHER)
    except (OSError, ValueError, KeyError, SafetensorError) as cause:
        raise CheckpointFault(
            "This is not a merged export, or not a whole one.",
            where=folder,
            expected="what `exo2ego export --format merged` writes last",
            got=f"{type(cause).__name__}: {str(cause).splitlines()[0]}",
            fix="Export the run again, into a new folder.",
        ) from cause
