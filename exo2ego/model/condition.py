"""What Wan's image condition holds when all that is known is the first frame's latent."""

from typing import Annotated, Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exo2ego.model.vae import LatentCodec
from stores.schema import VAE_FRAME_STRIDE, VAE_PIXEL_STRIDE, ClipShape

FirstFrameFill = Literal["decode", "grey", "zeros"]
RGB = 3


class AlignFrame(BaseModel):
    """EgoExo-Align's prediction (paper 3.3); `--first-frames` chooses among several."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["align"] = "align"


class TrueFrame(BaseModel):
    """The true first ego frame: the paper's upper bound (Tables 2, 4 and 6: gt-frame)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["ground-truth"] = "ground-truth"


class ExoFrame(BaseModel):
    """The first frame of an exo view, as Wan's bias would have it (paper 6)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["exo"] = "exo"
    view: int = Field(default=0, ge=0, description="number of the view; 0 is the reference")


class NoFrame(BaseModel):
    """No first frame: a grey video, none of whose frames the mask calls known.

    Choice: how the paper takes Align away (Table 2: -EgoExo-Align) is not said."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["none"] = "none"


FirstFrameSource = Annotated[
    AlignFrame | TrueFrame | ExoFrame | NoFrame, Field(discriminator="name")
]
"""Where the first frame of Wan's condition comes from."""


class ConditionSettings(BaseModel):
    """Wan's image condition: its first frame, and how the frames after it are filled.

    Choice: the paper does not say how they are filled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: FirstFrameSource = Field(
        default=AlignFrame(), description="where the first frame comes from (3.3; Table 2)"
    )

    fill: FirstFrameFill = Field(
        default="decode",
        description="decode: first latent to RGB, grey after it, encoded (how Wan was trained); "
        "grey: frames of an all-grey video; zeros: zeros in normalised latent space",
    )

    @property
    def first_frame_known(self) -> bool:
        """Whether Wan's mask says that latent frame 0 is known."""
        return not isinstance(self.source, NoFrame)


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
        tail = grey_latents(codec, frames, pixels)[:, :, 1:].to(first.device)
        return torch.cat([first, repeat(tail, "1 c t h w -> b c t h w", b=batch)], dim=2)
    return torch.cat([first, first.new_zeros(batch, first.shape[1], t - 1, *hw)], dim=2)


def grey_latents(
    codec: LatentCodec, frames: int, hw: tuple[int, int]
) -> Float[Tensor, "1 c t h w"]:
    """Latents of a grey video (0 in [-1, 1]) of so many RGB frames of so many pixels."""
    return codec.encode(torch.zeros(1, RGB, frames, *hw))


def with_mask(
    condition: Float[Tensor, "b c t h w"], *, first_frame_known: bool = True
) -> Float[Tensor, "b mask_c t h w"]:
    """The condition as Wan takes it: its mask, then itself, along channels.

    The mask has a channel for each source frame of a latent frame: 1 in latent frame 0 if that
    is known, and 0 after it.
    """
    mask = condition.new_zeros(condition.shape[0], VAE_FRAME_STRIDE, *condition.shape[2:])
    mask[:, :, 0] = float(first_frame_known)
    return torch.cat([mask, condition], dim=1)
