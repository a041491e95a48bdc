"""The video generator: Wan with exo tokens and, in stage 2, poses; and what trains of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from einops import repeat
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from exo2ego.model.condition import with_mask
from exo2ego.model.exo_cache import known_exo
from exo2ego.model.flow import timestep_of
from exo2ego.model.given import Given, check_given, check_pose, check_rays
from exo2ego.model.multiexocon import ExoTokens, MultiExoConSettings
from exo2ego.model.poseinj import PoseInj, PoseInjSettings, build_pose_inj
from exo2ego.model.poseinj.concat import ConcatSettings
from exo2ego.model.sampling import Velocity, with_null_in_batch
from exo2ego.model.views import by_views, clips_by_views
from exo2ego.model.wan import (
    LoraSettings,
    add_self_attention_lora,
    wan_dtype,
    wan_velocity,
)

GeneratorStage = Literal["multiexocon", "poseinj"]
"""The two stages of fine-tuning (paper 3.4); the second continues from the first's weights."""


_LORA = (".lora_A.", ".lora_B.")
TRAINED: dict[GeneratorStage, tuple[str, ...]] = {
    "multiexocon": (*_LORA, ".attn2.", "exo_tokens."),
    "poseinj": (*_LORA, "wan.patch_embedding.rays.", "wan.patch_embedding.join."),
}
"""Parameters that train in each stage, by a part of their name.

Choice: "all cross-attention parameters" (8.2.2) are attn2's own, without the norm before it; and
stage 2 goes on with stage 1's LoRA, as both are "210M" and it starts from stage 1's weights.
"""


class GeneratorSettings(BaseModel):
    """What is added to Wan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora: LoraSettings = Field(
        default=LoraSettings(), description="LoRA on self-attention (Table 10)"
    )
    exo: MultiExoConSettings = Field(
        default=MultiExoConSettings(), description="what exo tokens are made of (3.4.1)"
    )
    pose: PoseInjSettings = Field(
        default=ConcatSettings(),
        description="form of PoseInj (3.4.2); used in stage poseinj alone",
    )
    first_frame_known: bool = Field(
        default=True, description="whether Wan's mask calls the condition's first frame known"
    )


class Generator(nn.Module):
    """Velocity of a noisy ego video, given its first frame, the exo videos and the poses."""

    def __init__(
        self, wan: WanTransformer3DModel, exo_tokens: ExoTokens, *, first_frame_known: bool = True
    ):
        super().__init__()
        self.wan = wan
        self.exo_tokens = exo_tokens
        self.first_frame_known = first_frame_known

    @property
    def pose_inj(self) -> PoseInj | None:
        """PoseInj, which lives in Wan as its patch embedding; None in stage multiexocon."""
        embedding = self.wan.patch_embedding
        return embedding if isinstance(embedding, PoseInj) else None

    @property
    def pose_reads(self) -> str | None:
        """The rays of the ego camera, if there is a PoseInj to take them."""
        return self.pose_inj.reads if self.pose_inj else None

    def forward(
        self, noisy: Float[Tensor, "b c t h w"], sigma: Float[Tensor, " b"], given: Given
    ) -> Float[Tensor, "b c t h w"]:
        """Predicted velocity (noise - latents) in float32.

        The pose is given if and only if there is a PoseInj. An exo view that is NaN has no tokens.
        """

        def run(
            exo: Tensor,
            places: Tensor,
            noisy: Tensor,
            sigma: Tensor,
            known: Tensor,
            keep: Tensor | None,
        ) -> Tensor:
            tokens = self.exo_tokens(exo, places, keep)
            return self.velocity(noisy, timestep_of(sigma), known, tokens)

        of_clips = (noisy, sigma, self.known_channels(given), given.keep_exo)
        return by_views(run, (given.exo_latents, given.places), of_clips)

    def groups(self, given: Given) -> list[tuple[list[int], Given]]:
        """Clips that have the same views, with these views alone."""
        found = clips_by_views(given.exo_latents)
        return [(clips, given.part(clips, list(views))) for views, clips in found.items()]

    @contextmanager
    def solving(self, given: Given, *, guided: bool) -> Iterator[Velocity]:
        """Velocities of one group's steps, and those with the null token if guided.

        Exo keys and values are computed once; guided clips pass Wan in one batch with themselves.
        """
        times, dtype = 2 if guided else 1, wan_dtype(self.wan)
        known = repeat(self.known_channels(given), "b ... -> (times b) ...", times=times)
        tokens = self.exo_tokens(given.exo_latents, given.places).to(dtype)
        null = self.exo_tokens.null.to(dtype) if guided else None
        # Wan does not read the tokens that it is given here, but for their type
        seen = repeat(tokens[:, :1], "b n d -> (times b) n d", times=times)

        def velocity(noisy: Tensor, timestep: Tensor) -> Tensor:
            return self.velocity(noisy, timestep, known, seen)

        with known_exo(self.wan, tokens, null):
            yield with_null_in_batch(velocity, guided=guided)

    def known_channels(self, given: Given) -> Float[Tensor, "b k t h w"]:
        """All input channels after the noisy ones: mask, condition, and features of the rays."""
        check_given(given)
        check_pose(given, self.pose_reads)
        channels = [with_mask(given.condition, first_frame_known=self.first_frame_known)]
        if self.pose_inj is not None and given.pose is not None:
            check_rays(given.pose, given)
            channels.append(self.pose_inj.encode(given.pose))
        return torch.cat(channels, dim=1)

    def velocity(
        self,
        noisy: Float[Tensor, "b c t h w"],
        timestep: Float[Tensor, "b"],
        known: Float[Tensor, "b k t h w"],
        tokens: Float[Tensor, "b n d"],
    ) -> Float[Tensor, "b c t h w"]:
        """Wan's output in float32."""
        return wan_velocity(self.wan, torch.cat([noisy, known], dim=1), timestep, tokens)


def build_generator(
    wan: WanTransformer3DModel,
    settings: GeneratorSettings,
    stage: GeneratorStage,
    generator: torch.Generator,
) -> Generator:
    """The generator of a stage around a loaded Wan, of which exactly what that stage trains trains.

    At the start it gives what Wan gives for these tokens, bit for bit in float32. Wan is changed
    in place. New weights are drawn from `generator`, LoRA first, so both stages share its start.
    """
    add_self_attention_lora(wan, settings.lora, generator)
    embedding = wan.patch_embedding
    exo_tokens = ExoTokens(embedding, settings.exo)
    if stage == "poseinj":
        wan.register_module("patch_embedding", build_pose_inj(embedding, settings.pose, generator))
    built = Generator(wan, exo_tokens, first_frame_known=settings.first_frame_known)
    built.requires_grad_(False)
    # After add_adapter, which freezes all that is not LoRA.
    for parameter in trainable_parameters(built, stage).values():
        parameter.requires_grad_(True)
    return built


def trainable_parameters(generator: Generator, stage: GeneratorStage) -> dict[str, nn.Parameter]:
    """The parameters that a stage trains, by name, in the model's order."""
    return {
        name: parameter
        for name, parameter in generator.named_parameters()
        if any(part in name for part in TRAINED[stage])
    }
