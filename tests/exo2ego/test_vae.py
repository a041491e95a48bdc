"""Laws of the latent codec, on the small VAE of the real class."""

import json

import blake3
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from exo2ego.model.pretrained import WeightsFault
from exo2ego.model.vae import (
    LatentCodec,
    frames_from_video,
    load_codec,
    video_from_frames,
    weights_digest,
)
from stores.errors import ShapeFault


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    """The small VAE."""
    return load_codec("tiny")


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    """Two videos of 9 frames."""
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, 3, 9, 32, 48, generator=generator) * 2 - 1


def test_first_latent_frame_is_that_of_the_first_frame_alone(codec, video):
    assert torch.equal(codec.encode(video[:, :, :1]), codec.encode(video)[:, :, :1])


def test_a_video_does_not_depend_on_its_batch(codec, video):
    assert torch.equal(codec.encode(video)[1:], codec.encode(video[1:]))
    latents = codec.encode(video)
    assert torch.equal(codec.decode(latents)[1:], codec.decode(latents[1:]))


@pytest.mark.parametrize("frames", [2, 4, 8])
def test_frames_that_the_vae_would_drop_are_refused(codec, video, frames):
    with pytest.raises(ShapeFault, match=r"Use \d+ or \d+ frames"):
        codec.encode(video[:, :, :frames])


def test_latents_are_the_posterior_mode_less_mean_over_std(codec, video):
    raw = codec.vae.encode(video).latent_dist.mode()
    latents = codec.encode(video)
    mean, std = torch.tensor(codec.vae.config.latents_mean), codec.vae.config.latents_std
    for channel in (0, 15):
        assert_close(
            latents[:, channel], (raw[:, channel] - mean[channel]) / std[channel], rtol=0, atol=1e-6
        )


def test_decoding_undoes_the_normalisation(codec, video):
    raw = codec.vae.encode(video).latent_dist.mode()
    assert_close(codec.decode(codec.encode(video)), codec.vae.decode(raw).sample)


def test_decoded_video_stays_in_range(codec):
    latents = 100 * torch.randn(1, 16, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    assert codec.decode(latents).abs().max() == 1


def test_uint8_frames_survive_the_way_through_video():
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 2, 8, 16, 1).expand(-1, -1, -1, -1, 3)
    video = video_from_frames(frames)
    assert (video.min(), video.max()) == (-1, 1)
    assert torch.equal(frames_from_video(video), frames)


def test_the_tiny_codec_is_always_the_same_and_leaves_the_random_state_alone(codec):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    assert load_codec("tiny").recipe() == codec.recipe()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("inside", ["", "vae"])
def test_a_saved_codec_loads_as_itself(codec, video, tmp_path, inside):
    codec.vae.save_pretrained(tmp_path / inside)
    loaded = load_codec(str(tmp_path))
    assert loaded.recipe() == codec.recipe()
    assert torch.equal(loaded.encode(video[:1, :, :1]), codec.encode(video[:1, :, :1]))


def test_recipe_tells_one_changed_weight():
    codec = load_codec("tiny")
    before = codec.recipe()
    codec.vae.quant_conv.bias[0] += 1e-6
    after = codec.recipe()
    assert after["weights_digest"] != before["weights_digest"]
    assert after["config_digest"] == before["config_digest"]


def test_weights_digest_is_over_sorted_names_and_little_endian_bytes():
    state = {"b": torch.tensor([1.0]), "a": torch.tensor([[1.0, -2.0]], dtype=torch.bfloat16)}
    expected = blake3.blake3(
        b"a|torch.bfloat16|(1, 2)|\x80\x3f\x00\xc0" + b"b|torch.float32|(1,)|\x00\x00\x80\x3f"
    )
    assert weights_digest(state) == expected.hexdigest()


def test_a_folder_without_a_vae_is_refused(tmp_path):
    with pytest.raises(WeightsFault, match="does not hold the model's part"):
        load_codec(str(tmp_path))


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(WeightsFault, match="neither a folder here nor a model on the hub"):
        load_codec(str(tmp_path / "no" / "where"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "AutoencoderKLWan", "z_dim": 48}, "48 is the VAE of TI2V-5B"),
        ({"_class_name": "AutoencoderKL", "z_dim": 16}, "of another model"),
        ({}, "no _class_name"),
    ],
)
def test_another_vae_is_refused_by_its_configuration(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsFault, match=message):
        load_codec(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "key"),
    [({"base_dim": "8"}, "base_dim"), ({"latents_std": [0.0] * 16}, r"latents_std\.0")],
)
def test_a_damaged_configuration_is_told_by_its_key(codec, tmp_path, change, key):
    codec.vae.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(WeightsFault, match=rf"config\.json, {key}"):
        load_codec(str(tmp_path))


def test_damaged_weights_are_told(codec, tmp_path):
    codec.vae.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"quant_conv.bias": tensors["quant_conv.bias"] * torch.nan}, path)
    with pytest.raises(WeightsFault, match=r"quant_conv\.bias"):
        load_codec(str(tmp_path))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsFault, match="a whole safetensors file"):
        load_codec(str(tmp_path))
