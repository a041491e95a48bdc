"""The image condition, against diffusers' own pipeline and by its laws."""

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline
from torch.testing import assert_close

from exo2ego.model.condition import condition_latents, with_mask
from exo2ego.model.vae import LatentCodec, load_codec
from stores.errors import ShapeFault


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    """The small VAE."""
    return load_codec("tiny")


@pytest.fixture(scope="module")
def first_latent() -> torch.Tensor:
    """Latents of two first frames."""
    return torch.randn(2, 16, 2, 4, generator=torch.Generator().manual_seed(2))


def test_decode_is_what_the_published_pipeline_prepares_for_the_same_image(codec, first_latent):
    parts = dict.fromkeys(
        ("tokenizer", "text_encoder", "image_processor", "image_encoder", "transformer")
    )
    pipeline = WanImageToVideoPipeline(
        vae=codec.vae, scheduler=UniPCMultistepScheduler(), expand_timesteps=False, **parts
    )
    image = codec.decode(first_latent[:1, :, None])[:, :, 0]
    _, theirs = pipeline.prepare_latents(
        image, 1, height=16, width=32, num_frames=9, dtype=torch.float32, device="cpu"
    )
    ours = with_mask(condition_latents(codec, first_latent[:1], 9, "decode"))
    assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fill", ["grey", "zeros"])
def test_the_first_latent_is_kept_where_nothing_is_decoded(codec, first_latent, fill):
    condition = condition_latents(codec, first_latent, 9, fill)
    assert torch.equal(condition[:, :, 0], first_latent)


def test_grey_ends_as_a_grey_video_does(codec, first_latent):
    grey = codec.encode(torch.zeros(1, 3, 9, 16, 32))
    condition = condition_latents(codec, first_latent, 9, "grey")
    assert torch.equal(condition[1:, :, 1:], grey[:, :, 1:])


def test_zeros_end_in_zeros(codec, first_latent):
    assert not condition_latents(codec, first_latent, 9, "zeros")[:, :, 1:].any()


@pytest.mark.parametrize("fill", ["decode", "grey", "zeros"])
@pytest.mark.parametrize(("frames", "t"), [(1, 1), (5, 2), (13, 4)])
def test_every_fill_has_the_latent_frames_of_the_video(codec, first_latent, fill, frames, t):
    assert condition_latents(codec, first_latent, frames, fill).shape == (2, 16, t, 2, 4)


@pytest.mark.parametrize("fill", ["decode", "grey", "zeros"])
def test_frames_that_do_not_fit_the_vae_are_refused(codec, first_latent, fill):
    with pytest.raises(ShapeFault, match="frames"):
        condition_latents(codec, first_latent, 8, fill)


def test_mask_is_one_in_the_known_latent_frame_alone_and_stands_first(first_latent):
    condition = first_latent[:, :, None].repeat(1, 1, 3, 1, 1)
    masked = with_mask(condition)
    assert masked.shape == (2, 20, 3, 2, 4)
    assert torch.equal(masked[:, 4:], condition)
    assert (masked[:, :4, 0] == 1).all() and not masked[:, :4, 1:].any()
