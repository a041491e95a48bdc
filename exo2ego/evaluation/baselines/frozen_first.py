"""Baseline: the first frame that a generator is given, held for the whole clip."""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import UInt8
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exo2ego.evaluation.baselines.source import Baseline, BaselineSource
from exo2ego.evaluation.filming import shown_frames
from exo2ego.training.first_frames import FIRST_FRAMES


class FrozenFirst(BaseModel):
    """First frames kept beside the store (of Align, the truth or else), decoded and held.

    Whatever a generator scores above it, it owes to motion and detail after the first frame.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["frozen-first"] = "frozen-first"
    first_frames: str | None = Field(
        default=None, description="digest, or its beginning, if the store has several"
    )


def open_frozen_first(settings: FrozenFirst, source: BaselineSource) -> Baseline:
    """Raises StoreFault if there are no such first frames, or several, or none of a clip."""
    stored = source.store.derived(FIRST_FRAMES, settings.first_frames)
    stored.check_fresh(source.clip_ids)
    frames = source.store.recipe.clips.frames

    def film(clip_ids: Sequence[str]) -> UInt8[Tensor, "b T H W 3"]:
        latents = torch.from_numpy(stored.read("first_latent", clip_ids)).float()
        stills = source.codec.decode(rearrange(latents, "b c h w -> b c 1 h w"))
        return repeat(shown_frames(stills, clip_ids), "b 1 H W rgb -> b T H W rgb", T=frames)

    about = {"name": "frozen-first", "source": stored.provenance["source"]}
    return Baseline(about, lambda: film, first_frames=stored.digest)
