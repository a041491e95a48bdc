"""Time&Pose (paper Table 6, as in Exo2Ego-V): raw poses added to Wan's time embedding."""

import math
from typing import ClassVar, Literal

import torch
from diffusers.models.transformers.transformer_wan import (
    WanTimeTextImageEmbedding,
    WanTransformer3DModel,
)
from einops import rearrange, repeat
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from exo2ego.model.folding import fold_frames
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.wan import TRAINABLE_DTYPE, wan_width
from stores.errors import ShapeFault
from stores.schema import POSE_NUMBERS, VAE_FRAME_STRIDE


class TimeAndPoseSettings(BaseModel):
    """Poses of each latent frame's source frames, through an MLP, added to its time embedding.

    Choice: the paper says that poses and timesteps are fused. Here a latent frame has a time
    embedding of its own, and the poses of its four source frames are given to it side by side.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reads: ClassVar[str | None] = "ego_poses"
    name: Literal["time_and_pose"] = "time_and_pose"
    width: int = Field(default=256, gt=0, description="hidden width of the MLP; not given")


class PosedTime(nn.Module):
    """Takes the place of Wan's condition embedder: a time embedding for each latent frame.

    What Wan hands on in place of text are the frames' pose embeddings; its blocks, which have no
    text to attend to, get one zero token instead. So nothing is remembered between calls.
    """

    def __init__(self, condition_embedder: WanTimeTextImageEmbedding):
        super().__init__()
        self.time = condition_embedder

    def forward(
        self,
        timestep: Float[Tensor, " bn"],
        poses: Float[Tensor, "b t d"],
        image: None,
        timestep_seq_len: int,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n d6"], Float[Tensor, "b 1 d"], None]:
        """Time embedding and modulation of every token, nothing to attend to, and no image.

        A frame at a time, so that shapes, and with them every bit, are those of Wan alone.
        """
        clips = rearrange(timestep, "(b n) -> b n", n=timestep_seq_len)[:, 0]
        time, *_ = self.time(clips, poses)
        frames = [time + pose for pose in poses.unbind(dim=1)]
        modulations = [self.time.time_proj(self.time.act_fn(frame)) for frame in frames]
        each = timestep_seq_len // len(frames)
        tokens, modulation = (
            repeat(torch.stack(part, dim=1), "b t d -> b (t n) d", n=each)
            for part in (frames, modulations)
        )
        return tokens, modulation, torch.zeros_like(poses[:, :1]), None


class TimeAndPose(nn.Module):
    """Embeds poses; adding them to the time embedding is done in Wan."""

    reads = "ego_poses"

    def __init__(
        self, wan: WanTransformer3DModel, settings: TimeAndPoseSettings, generator: torch.Generator
    ):
        super().__init__()
        width = wan_width(wan)
        with initial_weights_from(generator):
            self.poses = nn.Sequential(
                nn.Linear(POSE_NUMBERS * VAE_FRAME_STRIDE, settings.width),
                nn.SiLU(),
                nn.Linear(settings.width, width),
            )
        for start in self.poses[-1].parameters():
            nn.init.zeros_(start)
        self.poses.to(wan.device, TRAINABLE_DTYPE)
        wan.register_module("condition_embedder", PosedTime(wan.condition_embedder))

    def encode(self, ego_poses: Float[Tensor, "b T 12"]) -> Float[Tensor, "b t d"]:
        """An embedding for each latent frame j, of the poses of frames 4j - 3 to 4j."""
        return self.poses(fold_frames(ego_poses).to(TRAINABLE_DTYPE))

    def told(
        self, poses: Float[Tensor, "b t d"], timestep: Float[Tensor, " b"], grid: tuple[int, ...]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b t d"]]:
        """Timestep and text as Wan is to be called: a time for each token, and the embeddings.

        `grid` counts tokens: frames, rows, columns. Raises ShapeFault for other frames.
        """
        if poses.shape[1] != grid[0]:
            raise ShapeFault(
                "There are poses of another number of frames than the video has.",
                where="ego_poses",
                expected=f"poses of {grid[0]} latent frames",
                got=f"poses of {poses.shape[1]}",
                fix="Give a pose for every frame: 1 for the first latent frame, 4 for each other.",
            )
        return repeat(timestep, "b -> b n", n=math.prod(grid)), poses
