"""Video to latents and back, by Wan's VAE: loading it, its normalisation, its fingerprint."""

import json
from typing import Annotated, Literal

import blake3
import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from einops import rearrange
from jaxtyping import Float, UInt8
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt
from torch import Tensor, nn

from exo2ego.model.pretrained import CONFIG_FILE, TINY, WeightsFault, checked_shape, locate
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.weight_files import fill, stored_tensors
from stores.schema import LATENT_CHANNELS, VAE_FRAME_STRIDE, VAE_PIXEL_STRIDE, ClipShape

HALF_RANGE = 127.5
"""Half of uint8's range: frames 0..255 are video -1..1."""
INTEGER_OF_WIDTH = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def video_from_frames(frames: UInt8[Tensor, "b T H W 3"]) -> Float[Tensor, "b 3 T H W"]:
    """Video in [-1, 1] of uint8 frames, in float32."""
    return rearrange(frames, "b T H W rgb -> b rgb T H W").float() / HALF_RANGE - 1


def frames_from_video(video: Float[Tensor, "b 3 T H W"]) -> UInt8[Tensor, "b T H W 3"]:
    """Frames 0..255 of a video in [-1, 1], rounded; exact inverse of `video_from_frames`."""
    levels = ((video.float() + 1) * HALF_RANGE).round().clamp(0, 2 * HALF_RANGE)
    return rearrange(levels.to(torch.uint8), "b rgb T H W -> b T H W rgb").contiguous()


class VaeShape(BaseModel):
    """The arguments that diffusers' class is made with; what Wan's VAE fixes has one value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_dim: PositiveInt = 96
    decoder_base_dim: PositiveInt | None = None
    z_dim: PositiveInt
    dim_mult: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (1, 2, 4, 4)
    num_res_blocks: PositiveInt = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[Literal[False], Literal[True], Literal[True]] = (False, True, True)
    dropout: float = Field(default=0, ge=0, le=0)
    latents_mean: list[FiniteFloat] = Field(min_length=LATENT_CHANNELS, max_length=LATENT_CHANNELS)
    latents_std: list[Annotated[FiniteFloat, Field(gt=0)]] = Field(
        min_length=LATENT_CHANNELS, max_length=LATENT_CHANNELS
    )
    is_residual: Literal[False] = False
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    patch_size: None = None
    scale_factor_temporal: int = Field(
        default=VAE_FRAME_STRIDE, ge=VAE_FRAME_STRIDE, le=VAE_FRAME_STRIDE
    )
    scale_factor_spatial: int = Field(
        default=VAE_PIXEL_STRIDE, ge=VAE_PIXEL_STRIDE, le=VAE_PIXEL_STRIDE
    )


class LatentCodec:
    """The frozen VAE with Wan's normalisation: latents are (posterior mode - mean) / std.

    One video at a time passes the VAE, so a video's bits do not depend on its batch. The VAE
    keeps its causal caches on itself: one codec must not be used from two threads at once.
    """

    def __init__(self, vae: AutoencoderKLWan):
        self.vae = vae.eval().requires_grad_(False)
        self.vae.enable_slicing()
        statistics = torch.tensor(
            [vae.config["latents_mean"], vae.config["latents_std"]], device=vae.device
        )
        self._mean, self._std = rearrange(statistics, "two c -> two c 1 1 1")

    @property
    def device(self) -> torch.device:
        """Where the VAE is; input is moved there, output stays there."""
        return self.vae.device

    @torch.no_grad()
    def encode(self, video: Float[Tensor, "b 3 T H W"]) -> Float[Tensor, "b c t h w"]:
        """Normalised latents of a video in [-1, 1], float32: the mode of the posterior.

        Raises ShapeFault unless T = 4k + 1 (the VAE would drop the rest without a word) and the
        sides are multiples of 16.
        """
        _, _, frames, *hw = video.shape
        ClipShape(views=1, frames=frames, hw=(hw[0], hw[1]))
        video = video.to(self.device, self.vae.dtype)
        (posterior,) = self.vae.encode(video, return_dict=False)
        return (posterior.mode().float() - self._mean) / self._std

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 T H W"]:
        """Video in [-1, 1] of normalised latents, float32, clamped."""
        raw = latents.to(self.device).float() * self._std + self._mean
        (video,) = self.vae.decode(raw.to(self.vae.dtype), return_dict=False)
        return video.float().clamp(-1, 1)

    def recipe(self) -> dict[str, str]:
        """Fingerprint of the VAE for a store's recipe: its class, configuration and weights.

        The weights are hashed as they are used, so another dtype is another recipe.
        """
        return {
            "class_name": type(self.vae).__name__,
            "config_digest": _config_digest(self.vae),
            "weights_digest": weights_digest(self.vae.state_dict()),
        }


def _config_digest(vae: AutoencoderKLWan) -> str:
    """blake3 of the canonical JSON of a configuration, without diffusers' private keys."""
    public = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    return blake3.blake3(
        json.dumps(public, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def weights_digest(state: dict[str, Tensor]) -> str:
    """blake3 over name, dtype, shape and little-endian bytes of each tensor, sorted by name."""
    digest = blake3.blake3()
    for name, tensor in sorted(state.items()):
        width = tensor.element_size()
        words = tensor.detach().cpu().contiguous().view(INTEGER_OF_WIDTH[width]).numpy()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(words.astype(f"<i{width}", copy=False).tobytes())
    return digest.hexdigest()


def load_codec(
    spec: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LatentCodec:
    """The codec of a diffusers folder (of the VAE, or with a subfolder vae), a hub id,
    "mini" (shipped) or "tiny" (random).

    Raises WeightsFault for another class, for Wan2.2's own VAE of 48 channels, and for weights that
    are damaged, not finite, or in pickle form alone.
    """
    vae = _tiny_vae() if spec == TINY else _published_vae(spec, dtype)
    # Not diffusers' `to`: it warns of modules kept in float32, even where there are none.
    nn.Module.to(vae, device, dtype)
    return LatentCodec(vae)


def _published_vae(spec: str, dtype: torch.dtype) -> AutoencoderKLWan:
    """The VAE of Wan2.2-I2V-A14B, on the CPU."""
    found = locate(spec, {"vae": AutoencoderKLWan.__name__})
    where = found.folder / CONFIG_FILE
    if (channels := found.config.get("z_dim")) != LATENT_CHANNELS:
        raise WeightsFault(
            "This VAE is not the one that Wan2.2-I2V-A14B uses.",
            where=f"{where}, z_dim",
            expected=f"{LATENT_CHANNELS} latent channels (Wan2.1's VAE, stride (4, 8, 8))",
            got=f"{channels} channels; 48 is the VAE of TI2V-5B",
            fix="Give the vae folder of Wan2.2-I2V-A14B-Diffusers.",
        )
    values = {key: value for key, value in found.config.items() if not key.startswith("_")}
    checked_shape(VaeShape, values, where)
    found.fetch_weights()
    with init_empty_weights(include_buffers=False):
        vae = AutoencoderKLWan(**values)
    fill(vae, stored_tensors(found.folder), "cpu", lambda _: dtype, found.folder)
    return vae


def _tiny_vae() -> AutoencoderKLWan:
    """A small VAE of the real class with the same random weights every time."""
    with initial_weights_from(torch.Generator().manual_seed(0)):
        return AutoencoderKLWan(base_dim=8, z_dim=LATENT_CHANNELS)
