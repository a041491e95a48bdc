"""The miniature VAE: Wan's own class, a twentieth of its size, trained on simulated frames.

`python -m benchmarks.mini vae`. Stopped at any time, it goes on from its last checkpoint. What
comes out is a folder of diffusers' own layout with weights in half precision, and its score on
clips of scenes that it has not seen.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanRMS_norm
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.mini.films import Films
from benchmarks.mini.loop import Schedule, quick_arithmetic, train
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.vae import video_from_frames
from stores.progress import Track, silent
from stores.schema import LATENT_CHANNELS

WHOLE = Schedule(steps=5500, lr=2e-3)
DECODER = Schedule(steps=1500, lr=1e-3, averaged=0.998)


@dataclass(frozen=True)
class VaeTraining:
    """What decides the weights. Choice, all of it: the paper's VAE is given."""

    base_dim: int = 16
    seed: int = 0
    whole: Schedule = WHOLE
    decoder: Schedule = DECODER
    """After `whole`, of the decoder alone: latents stay what they are."""
    frames: int = 20
    """Of a step, in as many videos as that makes."""
    lengths: tuple[int, ...] = (1, 5, 5, 9)
    """Frames of a step's videos, one length as likely as another: the VAE codes the first frame by
    itself, then four at a time, each four with what it remembers of those before."""
    side: int = 64
    """Pixels: half of the videos are whole ones of this size, half are cut out of larger ones."""
    ego: float = 0.4
    """Share of ego videos; the other cameras share the rest."""
    kl: float = 3e-5
    """Weight of the mean divergence from a normal distribution, beside the mean error."""
    first_log_variance: float = -6.0
    """Of the latents before training: little noise, so that the decoder sees what it decodes."""
    statistics: int = 200
    """Clips over which the latents' mean and deviation are taken."""


def train_vae(
    films: Films, out: Path, settings: VaeTraining, track: Track = silent
) -> AutoencoderKLWan:
    """The trained VAE on the CPU in fp32: on absolute errors, then the decoder on squared ones."""
    with initial_weights_from(torch.Generator().manual_seed(settings.seed)):
        vae = AutoencoderKLWan(base_dim=settings.base_dim, z_dim=LATENT_CHANNELS)
    with torch.no_grad():
        vae.quant_conv.get_parameter("bias")[LATENT_CHANNELS:] = settings.first_log_variance
    for norm in (module for module in vae.modules() if isinstance(module, WanRMS_norm)):
        norm.forward = partial(_quick_norm, norm)
    videos = partial(_batch, films, np.array(films.of_split("train")), settings)

    def of_whole(step: int) -> Tensor:
        return _whole_loss(vae, videos(step), settings.kl)

    def of_decoder(step: int) -> Tensor:
        return _decoder_loss(vae, videos(settings.whole.steps + step))

    train(vae, of_whole, settings.whole, out / "vae.checkpoint.pt", track)
    decoder = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    train(decoder, of_decoder, settings.decoder, out / "decoder.checkpoint.pt", track)
    return vae.eval()


def _batch(
    films: Films, clips: np.ndarray, settings: VaeTraining, step: int
) -> Float[Tensor, "b 3 T H W"]:
    """A step's videos in [-1, 1]: whole or cut, mirrored or not; seeds what the step draws."""
    rng = np.random.default_rng([settings.seed, step])
    length = int(rng.choice(settings.lengths))
    chosen = rng.choice(clips, settings.frames // length)
    videos = [_one_video(films, int(clip), length, rng, settings) for clip in chosen]
    torch.manual_seed(int(rng.integers(2**31)))
    return video_from_frames(torch.from_numpy(np.stack(videos)))


def _one_video(
    films: Films, clip: int, length: int, rng: np.random.Generator, settings: VaeTraining
) -> np.ndarray:
    _, views, frames, height, width, _ = films.frames.shape
    view = 0 if rng.random() < settings.ego else int(rng.integers(1, views))
    start = int(rng.integers(frames - length + 1))
    video = films.frames[clip, view, start : start + length]
    if rng.random() < 0.5:
        top, left = (int(rng.integers(side - settings.side + 1)) for side in (height, width))
        video = video[:, top : top + settings.side, left : left + settings.side]
    else:
        video = halved(video)
    return video[:, :, ::-1] if rng.random() < 0.5 else video


def halved(frames: np.ndarray) -> np.ndarray:
    """Frames of half the sides, each pixel the mean of four."""
    exact = frames.astype(np.float32)
    small = reduce(exact, "T (H two) (W both) rgb -> T H W rgb", "mean", two=2, both=2)
    return small.round().astype(np.uint8)


def _quick_norm(norm: WanRMS_norm, x: Tensor) -> Tensor:
    """What diffusers' norm gives, in half its time on a CPU: a sixth of a training step."""
    axis = 1 if norm.channel_first else -1
    size = (x * x).sum(axis, keepdim=True, dtype=torch.float32).clamp_min(1e-24).rsqrt()
    return x * (size * norm.scale).to(x.dtype) * norm.gamma + norm.bias


def _whole_loss(vae: AutoencoderKLWan, video: Tensor, kl: float) -> Tensor:
    """Mean absolute error of the video, and the divergence of its latents."""
    with quick_arithmetic():
        (posterior,) = vae.encode(video, return_dict=False)
        made = _decoded(vae, posterior.sample())
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return functional.l1_loss(made.float(), video) + kl * divergence


def _decoder_loss(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Mean squared error, which PSNR counts; the encoder is only asked."""
    with quick_arithmetic():
        with torch.no_grad():
            (posterior,) = vae.encode(video, return_dict=False)
        made = _decoded(vae, posterior.mode())
    return functional.mse_loss(made.float(), video)


def _decoded(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """What diffusers' `decode` gives before it clamps: a clamped pixel would teach nothing."""
    vae.clear_cache()
    latents, video = vae.post_quant_conv(latents), []
    for number, frame in enumerate(latents.split(1, dim=2)):
        cache = {"feat_cache": vae._feat_map, "feat_idx": [0], "first_chunk": number == 0}
        video.append(vae.decoder(frame, **cache))
    vae.clear_cache()
    return torch.cat(video, dim=2)
