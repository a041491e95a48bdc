"""What Wan's image condition holds when all that is known is the first frame's latent."""

from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exo2ego.model.vae import LatentCodec
from stores.schema import VAE_FRAME_STRIDE, VAE_PIXEL_STRIDE, ClipShape

FirstFrameFill = Literal["decode", "grey", "zeros"]


class ConditionSettings(BaseModel):
    """How the condition's frames after the first are filled. Choice: the paper does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fill: FirstFrameFill = Field(
        default="decode",
        description="decode: first latent to RGB, grey after it, encoded (how Wan was trained); "
        "grey: frames of an all-grey video; zeros: zeros in normalised latent space",
    )


def condition_latents(
    codec: LatentCodec, first_latent: Float[Tensor, "b c h w"], frames: int, fill: FirstFrameFill
) -> Float[Tensor, "b c t h w"]:
    """Condition latents of a video of which the first frame's latent is known.

    `frames` counts RGB frames. Grey is 0 in [-1, 1]. With "decode" the first latent has passed
    the VAE once more; with the others it is kept as it is.
    """
    batch, _, *hw = first_latent.shape
    pixels = (hw[0] * VAE_PIXEL_STRIDE, hw[1] * VAE_PIXEL_STRIDE)
    t = ClipShape(views=1, frames=frames, hw=pixels).latent().frames
    first = rearrange(first_latent, "b c h w -> b c 1 h w").float()
    if fill == "decode":
        video = codec.decode(first)
        grey = video.new_zeros(batch, video.shape[1], frames - 1, *pixels)
        return codec.encode(torch.cat([video, grey], dim=2)).to(first.device)
    if fill == "grey":
        tail = codec.encode(torch.zeros(1, 3, frames, *pixels))[:, :, 1:].to(first.device)
        return torch.cat([first, repeat(tail, "1 c t h w -> b c t h w", b=batch)], dim=2)
    return torch.cat([first, first.new_zeros(batch, first.shape[1], t - 1, *hw)], dim=2)


def with_mask(condition: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b mask_c t h w"]:
    """The condition as Wan takes it: its mask, then itself, along channels.

    The mask has a channel for each source frame of a latent frame: 1 in latent frame 0, which
    is known, and 0 after it.
    """
    mask = condition.new_zeros(condition.shape[0], VAE_FRAME_STRIDE, *condition.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat([mask, condition], dim=1)
