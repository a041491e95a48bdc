"""A run's checkpoints on disk: what trains, the optimiser, and where everything came from.

    RUN/checkpoints/step-00000050/
        weights.safetensors     the parameters that this stage trains, by name
        ema.safetensors         their moving averages, with the experiment's `ema_decay`
        optimiser.safetensors   slots of the optimiser, `exp_avg/<parameter>` and so on
        state.json              CheckpointState: step, store, experiment, parent, software

A folder with that name is complete: it is written aside, flushed and renamed.
"""

import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import blake3
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from exo2ego.model.pretrained import given_path
from stores.atomic import sync_folder
from stores.errors import UserFault

CHECKPOINT_FORMAT = 1
"""Version of the three files; a reader refuses another one."""
CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints."""
WEIGHTS, OPTIMISER, STATE = "weights.safetensors", "optimiser.safetensors", "state.json"
EMA = "ema.safetensors"


class CheckpointFault(UserFault, OSError):
    """A checkpoint that is missing, damaged, or made with something else than what is at hand."""


class Parent(BaseModel):
    """The checkpoint that a run started from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(description="relative to the child's checkpoint folder, so both can move")
    weights_digest: str = Field(description="blake3 of the parent's weights file")

    @classmethod
    def between(cls, child: Path, parent: Path, weights_digest: str) -> "Parent":
        """What a checkpoint in the folder `child` says of the one in `parent`."""
        path = Path(os.path.relpath(parent.resolve(), child.resolve())).as_posix()
        return cls(path=path, weights_digest=weights_digest)


class WanOrigin(BaseModel):
    """The pretrained transformer that a run started from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: str = Field(description="what was given as --wan")
    fingerprint: str = Field(description="see stages.wan_fingerprint")


class CheckpointState(BaseModel):
    """Everything about a checkpoint that is not a tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=CHECKPOINT_FORMAT, description="version of the files")
    stage: str = Field(description="name in stages.STAGES")
    step: int = Field(description="steps done")
    store_hash: str = Field(description="the store that it was trained on")
    experiment: dict[str, Any] = Field(description="the whole experiment, defaults included")
    experiment_digest: str = Field(description="blake3 of the experiment's canonical JSON")
    stream: dict[str, Any] = Field(description="the clip stream's position")
    parent: Parent | None = Field(description="the checkpoint it started from")
    wan: WanOrigin | None = Field(description="the pretrained transformer it started from")
    first_frames: str | None = Field(description="digest of Align's predictions it was fed with")
    began_with: str | None = Field(
        default=None, description="digest of the trained weights it began with; None: fresh ones"
    )
    weights_digest: str = Field(default="", description="blake3 of weights.safetensors")
    optimiser_digest: str | None = Field(
        default=None, description="blake3 of optimiser.safetensors; None if older than this field"
    )
    ema_digest: str | None = Field(default=None, description="blake3 of ema.safetensors")
    software: dict[str, str] = Field(default_factory=dict, description="versions that wrote it")


def software_versions() -> dict[str, str]:
    """Versions that results may depend on."""
    packages = ("exo2ego", "torch", "diffusers", "peft")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def write_checkpoint(
    run: Path,
    state: CheckpointState,
    weights: dict[str, Tensor],
    optimiser: dict[str, Tensor],
    ema: dict[str, Tensor] | None = None,
) -> Path:
    """Writes one checkpoint, whole or not at all; returns its folder."""
    folder = checkpoint_folder(run, state.step)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_plain(weights), partial / WEIGHTS)
    save_file(_plain(optimiser), partial / OPTIMISER)
    about: dict[str, Any] = {
        "weights_digest": file_digest(partial / WEIGHTS),
        "optimiser_digest": file_digest(partial / OPTIMISER),
        "software": software_versions(),
    }
    if ema is not None:
        save_file(_plain(ema), partial / EMA)
        about["ema_digest"] = file_digest(partial / EMA)
    (partial / STATE).write_bytes(
        orjson.dumps(state.model_copy(update=about).model_dump(), option=orjson.OPT_INDENT_2)
    )
    for path in partial.iterdir():
        _flush(path)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    sync_folder(folder.parent)
    return folder


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run / CHECKPOINTS / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((run / CHECKPOINTS).glob("step-*"))


def remove_old(run: Path, keep: int, best: Path | None = None) -> None:
    """Removes all but the newest `keep` checkpoints and the best one."""
    for folder in checkpoints(run)[:-keep]:
        if folder != best:
            shutil.rmtree(folder)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint at `path`: that folder itself, or the newest one of that run.

    `mini/align`, `mini/multiexocon` and `mini/poseinj` are those of the package (docs/mini.md).
    Raises CheckpointFault if there is none.
    """
    folder = given_path(path.as_posix())
    if (folder / STATE).is_file():
        return folder
    if found := checkpoints(folder):
        return found[-1]
    raise CheckpointFault(
        "There is no checkpoint here.",
        where=path,
        expected=f"a run with checkpoints/step-*/, or a folder with {STATE}",
        got="an empty or foreign folder" if path.is_dir() else "no such folder",
        fix="Give the --out folder of an `exo2ego train` run that reached its first checkpoint.",
    )


def read_state(folder: Path) -> CheckpointState:
    """The state of the checkpoint in `folder`. Raises CheckpointFault if it cannot be read."""
    try:
        state = CheckpointState.model_validate(orjson.loads((folder / STATE).read_bytes()))
    except (OSError, orjson.JSONDecodeError, ValidationError) as cause:
        raise _damaged(folder / STATE, "a checkpoint's state", cause) from cause
    if state.format != CHECKPOINT_FORMAT:
        raise _damaged(folder / STATE, f"format {CHECKPOINT_FORMAT}", f"format {state.format}")
    return state


def read_weights(folder: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """The weights of the checkpoint in `folder`, or their averages.

    Raises CheckpointFault if they were altered, or if it has no averages.
    """
    name, digest = weights_file(folder, read_state(folder), ema=ema)
    return _read_tensors(folder / name, digest)


def weights_file(folder: Path, state: CheckpointState, *, ema: bool) -> tuple[str, str]:
    """Name and digest of a checkpoint's weights, or of their averages.

    Raises CheckpointFault if it has no averages.
    """
    if not ema:
        return WEIGHTS, state.weights_digest
    if state.ema_digest is None:
        raise CheckpointFault(
            "This checkpoint has no averaged weights.",
            where=folder,
            expected=f"{EMA}, of a run with `ema_decay`",
            got="none",
            fix="Train with --set ema_decay=0.999, or leave out --ema.",
        )
    return EMA, state.ema_digest


def read_optimiser(folder: Path) -> dict[str, Tensor]:
    """The optimiser's slots of the checkpoint in `folder`, as `slot/parameter`.

    Raises CheckpointFault if they were altered.
    """
    return _read_tensors(folder / OPTIMISER, read_state(folder).optimiser_digest)


def file_digest(path: Path) -> str:
    """blake3 of a file's bytes."""
    return blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(path).hexdigest()


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous and sharing no memory, as safetensors wants them."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _read_tensors(path: Path, expected: str | None) -> dict[str, Tensor]:
    """The file's tensors; CheckpointFault if it is damaged, or its digest not the expected one."""
    try:
        tensors, got = load_file(path), file_digest(path)
    except (OSError, SafetensorError) as cause:
        raise _damaged(path, "a safetensors file", cause) from cause
    if expected not in (None, got):
        raise _damaged(path, f"digest {expected[:12]}", f"digest {got[:12]}")
    return tensors


def _damaged(path: Path, expected: object, got: object) -> CheckpointFault:
    return CheckpointFault(
        "This checkpoint cannot be read.",
        where=path,
        expected=expected,
        got=got,
        fix="Use an older checkpoint of the run (remove this folder and pass --resume).",
    )
