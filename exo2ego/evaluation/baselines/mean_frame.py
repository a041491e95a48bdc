"""Baseline: the mean ego frame of the training split, for every frame of every clip."""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import reduce, repeat
from jaxtyping import Int64, UInt8
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from exo2ego.evaluation.baselines.source import Baseline, BaselineFault, BaselineSource
from exo2ego.evaluation.filming import Film
from exo2ego.evaluation.sample_files import kept_frames
from stores.atomic import write_whole
from stores.version import ABSENT_ROW

TRAINING_SPLIT = "train"
SUM_FILE = "mean-frame.safetensors"
"""`sum` int64 "H W 3" of the levels of the first `clips` training clips, by id."""
_KEPT_EVERY = 32  # clips between two writings of it


class MeanFrame(BaseModel):
    """One frame for all clips: what one knows without looking at any exo view.

    Choice: over all frames of all training clips of the store, of whichever category.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["mean-frame"] = "mean-frame"


def open_mean_frame(_: MeanFrame, source: BaselineSource) -> Baseline:
    """Raises BaselineFault if the store has no training clip with an ego video."""
    store = source.store
    rows = [store.row(clip_id) for clip_id in store.select(split=TRAINING_SPLIT)]
    training = [row for row in rows if row.ego.video]
    if not training:
        raise BaselineFault(
            "There is no training clip to take the mean of.",
            where=f"{store.path}@{store.hash[:12]}",
            expected=f"clips of split {TRAINING_SPLIT} with an ego video",
            got=f"splits {store.info()['splits']}",
            fix="Use the store that the runs were trained on.",
        )
    kept = all(row.rows["ego_frames"] != ABSENT_ROW for row in training)
    about = {
        "name": "mean-frame",
        "of": f"all ego frames of {len(training)} clips of split {TRAINING_SPLIT}",
        "frames": "as they were cut" if kept else "decoded from their latents",
    }
    ids = [row.clip_id for row in training]
    return Baseline(about, lambda: _film(ids, source))


def _film(training: Sequence[str], source: BaselineSource) -> Film:
    mean = mean_frame(training, source)
    frames = source.store.recipe.clips.frames
    still = repeat(mean, "H W rgb -> T H W rgb", T=frames)
    return lambda clip_ids: repeat(still, "T H W rgb -> b T H W rgb", b=len(clip_ids))


def mean_frame(training: Sequence[str], source: BaselineSource) -> UInt8[Tensor, "H W 3"]:
    """The mean level of each pixel and colour, rounded.

    Whole numbers are added up, so neither order nor interruptions matter; what was added is kept
    in the folder of samples.
    """
    clips, recipe = source.store.recipe.clips, source.store.recipe
    total, done = _read_sum(source, recipe.clips.hw)
    rest = training[done:]
    tracked = source.track(rest, total=len(rest), what="mean frame", unit="clips")
    for number, clip_id in enumerate(tracked, start=done + 1):
        frames = kept_frames(source.store, source.codec, clip_id, "ego")[0]
        total += reduce(frames.long(), "T H W rgb -> H W rgb", "sum")
        if number % _KEPT_EVERY == 0 or number == len(training):
            data = save({"sum": total, "clips": torch.tensor(number)})
            write_whole(source.out / SUM_FILE, data)
    count = len(training) * clips.frames
    return ((total + count // 2) // count).to(torch.uint8)


def _read_sum(source: BaselineSource, hw: tuple[int, int]) -> tuple[Int64[Tensor, "H W 3"], int]:
    """What was added up before, and of how many clips."""
    path = source.out / SUM_FILE
    if not path.exists():
        return torch.zeros(*hw, 3, dtype=torch.int64), 0
    try:
        kept = load_file(path)
        return kept["sum"], int(kept["clips"])
    except (OSError, SafetensorError, KeyError) as cause:
        raise BaselineFault(
            "The sum of training frames cannot be read.",
            where=path,
            expected="a safetensors file with `sum` and `clips`",
            got=f"{type(cause).__name__}: {cause}",
            fix="Remove the file and run the same command again.",
        ) from cause
