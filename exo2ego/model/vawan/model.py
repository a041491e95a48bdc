"""VAWAN (paper 4.1): Wan with the exo videos on the channels of its input, the baseline."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, cast

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from exo2ego.model.condition import with_mask
from exo2ego.model.flow import timestep_of
from exo2ego.model.given import Given, check_given, check_pose
from exo2ego.model.sampling import Velocity, with_null_in_batch
from exo2ego.model.vawan import PoseForm, PoseSettings, build_pose
from exo2ego.model.vawan.ac3d import Ac3dSettings
from exo2ego.model.vawan.exo_channels import ChannelLayout, ExoEmbedding, exo_channels
from exo2ego.model.wan import (
    LoraSettings,
    add_self_attention_lora,
    wan_velocity,
    wan_width,
)
from stores.schema import LATENT_CHANNELS, PATCH

Training = Literal["lora", "whole"]
ADDED = (".lora_A.", ".lora_B.", "patch_embedding.exo.", ".side.")
"""Parts of the names of what is added inside Wan; poses' own parameters begin with `pose.`."""
UNHEARD = (".norm2.", ".attn2.to_q.", ".attn2.to_k.", ".attn2.norm_", ".attn2.to_v.weight")
"""Of cross-attention to one zero token: weights that change nothing, whatever they are."""


class VawanSettings(BaseModel):
    """What is added to Wan, and what trains. The defaults are Table 1's VAWAN.

    Choice: that Table 1's is AC3D(512) with 4 views and LoRA follows from its scores on Bike,
    which are those of Table 5. The other choices are in docs/decisions.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    views: int = Field(default=4, ge=1, description="exo videos: a clip's first (Table 5: 1 or 4)")
    layout: ChannelLayout = Field(
        default="with-image",
        description="with-image: mask and condition stay before the exo channels; exo-only: not",
    )
    training: Training = Field(
        default="lora",
        description="lora: self-attention's LoRA and all that is added; whole: Wan, too (Table 5)",
    )
    lora: LoraSettings = Field(
        default=LoraSettings(), description="of the self-attention, with training lora"
    )
    pose: PoseSettings = Field(
        default=Ac3dSettings(), description="how camera motion is told (Table 6)"
    )


class Vawan(nn.Module):
    """Velocity of a noisy ego video, given its first frame, the exo videos and the poses."""

    def __init__(
        self, wan: WanTransformer3DModel, pose: PoseForm | None, *, first_frame_known: bool = True
    ):
        super().__init__()
        self.wan = wan
        self.pose = pose
        self.first_frame_known = first_frame_known

    @property
    def pose_reads(self) -> str | None:
        """What its form of pose conditioning reads."""
        return None if self.pose is None else self.pose.reads

    def forward(
        self, noisy: Float[Tensor, "b c t h w"], sigma: Float[Tensor, " b"], given: Given
    ) -> Float[Tensor, "b c t h w"]:
        """Predicted velocity (noise - latents) in float32.

        The pose is given if and only if it is taken. An exo view that is NaN is zero.
        """
        known, heard = self.known_channels(given), self.heard(given)
        return self.velocity(noisy, timestep_of(sigma), known, heard)

    def groups(self, given: Given) -> list[tuple[list[int], Given]]:
        """All clips together: a view that one lacks is zero on its channels."""
        return [(list(range(len(given.condition))), given)]

    @contextmanager
    def solving(self, given: Given, *, guided: bool) -> Iterator[Velocity]:
        """Velocities of one group's steps, and those with no exo videos if guided: one batch."""
        known, heard = self.known_channels(given), self.heard(given)
        if guided:
            nobody = torch.zeros(len(heard), dtype=torch.bool, device=heard.device)
            null = self.known_channels(replace(given, keep_exo=nobody))
            known, heard = torch.cat([known, null]), torch.cat([heard, heard])

        def velocity(noisy: Tensor, timestep: Tensor) -> Tensor:
            return self.velocity(noisy, timestep, known, heard)

        yield with_null_in_batch(velocity, guided=guided)

    def known_channels(self, given: Given) -> Float[Tensor, "b k t h w"]:
        """All input channels after the noisy ones: mask and condition if kept, exo videos."""
        check_given(given)
        embedding = cast(ExoEmbedding, self.wan.patch_embedding)
        own = with_mask(given.condition, first_frame_known=self.first_frame_known)
        own = own[:, : embedding.kept - LATENT_CHANNELS]
        exo = exo_channels(given.exo_latents, embedding.views, given.keep_exo)
        return torch.cat([own, exo], dim=1)

    def heard(self, given: Given) -> Float[Tensor, "b n s"]:
        """What Wan gets in place of text; Choice: without poses one zero token."""
        check_pose(given, self.pose_reads)
        if self.pose is None or given.pose is None:
            return given.condition.new_zeros(len(given.condition), 1, wan_width(self.wan))
        return self.pose.encode(given.pose)

    def velocity(
        self,
        noisy: Float[Tensor, "b c t h w"],
        timestep: Float[Tensor, " b"],
        known: Float[Tensor, "b k t h w"],
        heard: Float[Tensor, "b n s"],
    ) -> Float[Tensor, "b c t h w"]:
        """Wan's output in float32."""
        if self.pose is not None:
            frames, rows, columns = noisy.shape[2:]
            grid = (frames, rows // PATCH, columns // PATCH)
            timestep, heard = self.pose.told(heard, timestep, grid)
        return wan_velocity(self.wan, torch.cat([noisy, known], dim=1), timestep, heard)


def build_vawan(
    wan: WanTransformer3DModel,
    settings: VawanSettings,
    generator: torch.Generator,
    *,
    first_frame_known: bool = True,
) -> Vawan:
    """VAWAN around a loaded Wan, of which exactly what the settings name trains.

    At the start it gives what Wan gives without text, bit for bit in float32. Wan is changed in
    place. New weights are drawn from `generator`.
    """
    if settings.training == "lora":
        add_self_attention_lora(wan, settings.lora, generator)
    embedding = ExoEmbedding(wan.patch_embedding, settings.views, settings.layout)
    wan.register_module("patch_embedding", embedding)
    pose = build_pose(wan, settings.pose, generator)
    built = Vawan(wan, pose, first_frame_known=first_frame_known)
    for name, parameter in built.named_parameters():
        parameter.requires_grad_(trains(name, settings.training))
    return built


def trains(name: str, training: Training) -> bool:
    """True if the parameter of that name trains.

    Choice: with LoRA, Wan's own columns of the patch embedding stay as they are; "whole" leaves out
    what attention to one zero token cannot teach.
    """
    if training == "whole":
        return not any(part in name for part in UNHEARD)
    return name.startswith("pose.") or any(part in name for part in ADDED)
