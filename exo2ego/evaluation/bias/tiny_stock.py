"""A small random pipeline of the real classes, tokenizer and all, to try things with."""

from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from exo2ego.model.pretrained import TINY
from exo2ego.model.seeding import initial_weights_from
from exo2ego.model.vae import load_codec
from exo2ego.model.wan import load_with_text

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BOUNDARY, FLOW_SHIFT = 0.9, 3.0
"""Those of Wan2.2-I2V-A14B-Diffusers."""


def tiny_stock() -> WanImageToVideoPipeline:
    """The pipeline with the same random weights every time; its experts differ."""
    low = load_with_text(TINY)
    with initial_weights_from(torch.Generator().manual_seed(1)):
        high = WanTransformer3DModel(**{k: v for k, v in low.config.items() if k[0] != "_"})
    return WanImageToVideoPipeline(
        tokenizer=_tokenizer(),  # pyright: ignore[reportArgumentType]
        text_encoder=_text_encoder(low.config["text_dim"]),
        vae=load_codec(TINY).vae,
        scheduler=UniPCMultistepScheduler(  # pyright: ignore[reportArgumentType]
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
        ),
        transformer=high,
        transformer_2=low,
        boundary_ratio=BOUNDARY,
    )


def _tokenizer() -> T5Tokenizer:
    """One that knows letters: what else there is, is unknown to it."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
    pieces = [(piece, -2.0) for piece in ("▁", *LETTERS)]
    return T5Tokenizer(vocab=[*special, *pieces], extra_ids=0)


def _text_encoder(width: int) -> UMT5EncoderModel:
    sizes: dict[str, Any] = {
        "d_model": width,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 1,
        "num_heads": 2,
    }
    with initial_weights_from(torch.Generator().manual_seed(2)):
        return UMT5EncoderModel(UMT5Config(vocab_size=len(_tokenizer()), **sizes)).eval()
