"""The source frames of each latent frame, side by side on channels."""

import torch
from einops import rearrange, repeat
from jaxtyping import Shaped
from torch import Tensor

from stores.schema import VAE_FRAME_STRIDE


def fold_frames(frames: Shaped[Tensor, "b T p *hw"]) -> Shaped[Tensor, "b t p4 *hw"]:
    """For each latent frame, its four source frames on channels: nothing is lost or mixed.

    Latent frame 0 has but one source frame, which stands there four times, as in Wan's own mask;
    latent frame j has frames 4j - 3 to 4j. Channels are ordered (frame, p).
    """
    first = repeat(frames[:, :1], "b 1 ... -> b n ...", n=VAE_FRAME_STRIDE)
    padded = torch.cat([first, frames[:, 1:]], dim=1)
    return rearrange(padded, "b (t n) p ... -> b t (n p) ...", n=VAE_FRAME_STRIDE)
