"""A stage's trained weights as the package ships them: one checkpoint in half precision."""

from pathlib import Path

import orjson
from safetensors.torch import save_file

from exo2ego.training.checkpoint import (
    STATE,
    WEIGHTS,
    Parent,
    file_digest,
    find_checkpoint,
    read_state,
    read_weights,
)


def write_adapter(run: Path, out: Path, parent: Path | None = None) -> Path:
    """The newest checkpoint of `run` in the folder `out`, as half as many bytes; returns `out`.

    It is a checkpoint as any other, without an optimiser: runs begin with it or go on from it,
    and it is sampled. What is trained on it should be trained on what is written here, whose
    weights are rounded. `parent` says where the parent's lies now; the run must have gone on from
    it. Raises CheckpointFault for a damaged checkpoint, ValueError for another parent.
    """
    folder = find_checkpoint(run)
    state, weights = read_state(folder), read_weights(folder)
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in weights.items()}, out / WEIGHTS)
    about = {
        "weights_digest": file_digest(out / WEIGHTS),
        "optimiser_digest": None,
        "ema_digest": None,
        "parent": _parent(state.parent, out, parent),
    }
    whole = state.model_copy(update=about).model_dump()
    (out / STATE).write_bytes(orjson.dumps(whole, option=orjson.OPT_INDENT_2))
    return out


def _parent(known: Parent | None, out: Path, folder: Path | None) -> Parent | None:
    """The same parent, at its place."""
    if folder is None and known is None:
        return None
    digest = read_state(folder).weights_digest if folder else None
    if folder is None or known is None or digest != known.weights_digest:
        raise ValueError(f"the run went on from {known}, not from {folder} ({digest})")
    return Parent.between(out, folder, digest)
