"""diffusers' own image-to-video pipeline of Wan2.2: loading all of it, filming from exo frames."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor

from exo2ego.evaluation.bias.tiny_stock import tiny_stock
from exo2ego.evaluation.film_generator import clip_noise
from exo2ego.evaluation.filming import Film, shown_frames
from exo2ego.evaluation.metrics import unit_frames
from exo2ego.model.flow import SamplerSettings
from exo2ego.model.pretrained import TINY, WeightsFault, locate
from exo2ego.model.vae import LatentCodec, load_codec
from exo2ego.model.wan_expert import HIGH_NOISE, IN_CHANNELS, LOW_NOISE
from exo2ego.training.build import wan_fingerprint
from stores.reading import Store

PIPELINE = WanImageToVideoPipeline.__name__
NEEDED = (HIGH_NOISE, LOW_NOISE, "text_encoder", "tokenizer", "scheduler", "vae")
"""Parts of Wan2.2-I2V-A14B: both experts, and text."""


@dataclass(frozen=True, eq=False)
class StockWan:
    """The pipeline as published: nothing of ours is in it."""

    spec: str
    """Where it was read from."""
    pipeline: WanImageToVideoPipeline
    codec: LatentCodec
    """Of the pipeline's own VAE."""
    about: dict[str, Any]
    """What it is made of, wherever it lies, for the manifest."""

    @property
    def shift(self) -> float:
        """Of its scheduler's noise levels."""
        config = self.pipeline.scheduler.config
        return float(config.get("flow_shift", config.get("shift", 1.0)))

    def film(
        self,
        store: Store,
        prompt: str,
        negative: str,
        *,
        view: int,
        sampler: SamplerSettings,
        seed: int,
    ) -> Film:
        """Makes videos of the store's shape that begin with the first frame of an exo view.

        A clip's noise is that of our generators, and the same for every prompt.
        """
        shape = store.recipe.clips.shape
        latent = shape.latent()
        noise_shape = torch.Size((latent.channels, latent.frames, *latent.hw))

        def film_one(clip_id: str) -> UInt8[Tensor, "1 T H W 3"]:
            noise = clip_noise(seed, clip_id, noise_shape)
            output = self.pipeline(
                image=_picture(exo_first_frame(store, clip_id, view)),
                prompt=prompt,
                negative_prompt=negative,
                height=shape.hw[0],
                width=shape.hw[1],
                num_frames=shape.frames,
                num_inference_steps=sampler.steps,
                guidance_scale=sampler.guidance,
                latents=rearrange(noise, "c t h w -> 1 c t h w"),
                output_type="pt",
                return_dict=False,
            )
            video = rearrange(cast(Tensor, output[0]), "b T rgb H W -> b rgb T H W")
            return shown_frames(2 * video.float() - 1, [clip_id])

        return lambda clip_ids: torch.cat([film_one(clip_id) for clip_id in clip_ids])


def exo_first_frame(store: Store, clip_id: str, view: int) -> UInt8[Tensor, "H W 3"]:
    """The picture that the pipeline is given. Raises StoreFault if the store does not keep it."""
    return torch.from_numpy(store.read("exo_frames", [clip_id])[0, view, 0])


def load_stock_wan(spec: str, *, device: str = "cpu", offload: bool = False) -> StockWan:
    """The pipeline of a diffusers folder, a hub id, or "tiny"; its VAE in float32.

    The rest is in bfloat16 on a GPU, in float32 on the CPU. `offload` keeps on the GPU the part
    that is running alone (an expert of 14B: 29 GB).
    Raises WeightsFault unless both experts, the text encoder and the VAE of 16 channels are there.
    """
    on_gpu = torch.device(device).type != "cpu"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    pipeline = tiny_stock() if spec == TINY else _published(spec, dtype)
    pipeline.set_progress_bar_config(disable=True)
    codec, experts = LatentCodec(pipeline.vae), (HIGH_NOISE, LOW_NOISE)
    about = {
        "pipeline": PIPELINE,
        "boundary_ratio": pipeline.config["boundary_ratio"],
        "scheduler": type(pipeline.scheduler).__name__,
        "fingerprints": {name: wan_fingerprint(getattr(pipeline, name)) for name in experts},
        "vae": codec.recipe(),
        "dtype": str(dtype).removeprefix("torch."),
    }
    if offload and on_gpu:
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return StockWan(spec, pipeline, codec, about)


def _published(spec: str, dtype: torch.dtype) -> WanImageToVideoPipeline:
    """The pipeline on the CPU."""
    _check_config(spec)
    vae = load_codec(spec).vae
    try:
        return WanImageToVideoPipeline.from_pretrained(
            spec, vae=vae, dtype=dtype, use_safetensors=True
        )
    except (OSError, ValueError, SafetensorError) as cause:
        raise _not_stock(spec, f"{type(cause).__name__}: {_first_line(cause)}") from cause


def _check_config(spec: str) -> None:
    """Looks at model_index.json and at the experts' sizes before a byte of weights is read."""
    try:
        config = cast(dict[str, Any], WanImageToVideoPipeline.load_config(spec))
    except OSError as cause:
        raise _not_stock(spec, f"no model_index.json: {_first_line(cause)}") from cause
    if (name := config.get("_class_name")) != PIPELINE:
        raise _not_stock(spec, f"a pipeline {name}")
    if lacking := [part for part in NEEDED if not (config.get(part) or [None])[0]]:
        raise _not_stock(spec, f"no {', '.join(lacking)}")
    if config.get("boundary_ratio") is None:
        raise _not_stock(spec, "no boundary_ratio: one expert would do all steps")
    for name in (HIGH_NOISE, LOW_NOISE):
        found = locate(spec, {name: WanTransformer3DModel.__name__})
        if (channels := found.config.get("in_channels")) != IN_CHANNELS:
            raise _not_stock(str(found.folder), f"{channels} input channels, not {IN_CHANNELS}")


def _first_line(cause: Exception) -> str:
    return str(cause).partition("\n")[0]


def _picture(frame: UInt8[Tensor, "H W 3"]) -> Float[Tensor, "1 3 H W"]:
    """A frame as the pipeline takes it, in [0, 1]."""
    return unit_frames(frame[None]).float()


def _not_stock(where: str, got: str) -> WeightsFault:
    return WeightsFault(
        "This is not the whole of Wan2.2-I2V-A14B in diffusers' layout.",
        where=where,
        expected=f"a folder or hub id with model_index.json of {PIPELINE}, boundary_ratio and "
        + ", ".join(NEEDED),
        got=got,
        fix="Give the folder of Wan-AI/Wan2.2-I2V-A14B-Diffusers, with all its subfolders.",
    )
