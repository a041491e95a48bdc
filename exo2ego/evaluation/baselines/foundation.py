"""Baseline: Wan before anything of ours, from a first frame alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from einops import rearrange
from jaxtyping import Float, UInt8
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from exo2ego.evaluation.baselines.source import Baseline, BaselineSource
from exo2ego.evaluation.film_generator import clip_noise
from exo2ego.evaluation.filming import Film, shown_frames
from exo2ego.model.condition import NoFrame, with_mask
from exo2ego.model.flow import SamplerSettings, timestep_of
from exo2ego.model.given import Given
from exo2ego.model.sampling import Velocity, sample
from exo2ego.model.wan import load_with_text, wan_dtype, wan_velocity
from exo2ego.training.build import wan_fingerprint
from exo2ego.training.first_frames import FIRST_FRAMES
from stores.derived import Derived


class Foundation(BaseModel):
    """Wan as it was loaded, given first frames kept beside the store, and no words.

    With an exo view's first frame it shows the view bias of the paper's section 6; whatever a
    trained run scores above it, it owes to our modules. Guidance is off: without words there is
    nothing to be guided by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["foundation"] = "foundation"
    wan: str = Field(description="a folder, a hub id, `mini` or `tiny`")
    first_frames: str | None = Field(
        default=None, description="digest, or its beginning, if the store has several"
    )
    steps: int = Field(default=40, ge=1, description="solver steps (paper: Table 8)")
    shift: float = Field(default=5.0, gt=0, description="of the noise levels (Table 8)")
    seed: int = Field(default=0, description="of the noise, with each clip's id")


class WordlessWan:
    """A Wan that is told nothing but its condition, as a generator of velocities.

    Wan pads its text with zeros; a text of no words is zeros alone, and attention to equal tokens
    is attention to one.
    """

    pose_reads: str | None = None

    def __init__(self, wan: WanTransformer3DModel, *, known: bool):
        self.wan, self.known = wan, known

    def __call__(
        self, noisy: Float[Tensor, "b c t h w"], sigma: Float[Tensor, " b"], given: Given
    ) -> Float[Tensor, "b c t h w"]:
        """Velocity (noise - latents) in float32."""
        return self._velocity(noisy, timestep_of(sigma), given)

    def groups(self, given: Given) -> list[tuple[list[int], Given]]:
        """All clips at once."""
        return [(list(range(len(given.condition))), given)]

    @contextmanager
    def solving(self, given: Given, *, guided: bool) -> Iterator[Velocity]:
        """Velocities without words are both: those that are guided, and what they are guided by."""

        def velocity(latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor | None]:
            told = self._velocity(latents, timestep, given)
            return told, told if guided else None

        yield velocity

    def _velocity(self, noisy: Tensor, timestep: Tensor, given: Given) -> Tensor:
        condition = with_mask(given.condition, first_frame_known=self.known)
        channels = torch.cat([noisy, condition], dim=1)
        words = noisy.new_zeros(len(noisy), 1, self.wan.config["text_dim"])
        return wan_velocity(self.wan, channels, timestep, words)


def without_views(condition: Float[Tensor, "b c t h w"]) -> Given:
    """What a generator is given that knows a first frame, and no exo videos."""
    return Given(condition, rearrange(condition, "b c t h w -> b 1 c t h w")[:, :0])


def open_foundation(settings: Foundation, source: BaselineSource) -> Baseline:
    """Raises StoreFault if there are no such first frames, or several; WeightsFault for no Wan."""
    stored = source.store.derived(FIRST_FRAMES, settings.first_frames)
    stored.check_fresh(source.clip_ids)
    device = source.codec.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    wan = load_with_text(settings.wan, device=device, dtype=dtype).eval()
    nn.Module.to(wan, device)
    about = settings.model_dump(exclude={"first_frames", "wan"})
    about |= {"wan": wan_fingerprint(wan), "dtype": str(wan_dtype(wan)).removeprefix("torch.")}
    about |= {"source": stored.provenance["source"]}
    return Baseline(about, lambda: _film(wan, settings, source, stored), first_frames=stored.digest)


def _film(
    wan: WanTransformer3DModel, settings: Foundation, source: BaselineSource, stored: Derived
) -> Film:
    generator = WordlessWan(wan, known=stored.provenance["source"] != NoFrame().model_dump())
    sampler = SamplerSettings(steps=settings.steps, shift=settings.shift, guidance=1)

    def film(clip_ids: Sequence[str]) -> UInt8[Tensor, "b T H W 3"]:
        kept = torch.from_numpy(stored.read("condition", clip_ids)).to(wan.device).float()
        given = without_views(rearrange(kept, "b t c h w -> b c t h w"))
        shape = given.condition.shape[1:]
        noise = torch.stack([clip_noise(settings.seed, clip_id, shape) for clip_id in clip_ids])
        latents = sample(generator, given, noise.to(wan.device), sampler)
        return shown_frames(source.codec.decode(latents), clip_ids)

    return film
