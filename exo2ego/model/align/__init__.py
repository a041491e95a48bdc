"""EgoExo-Align (paper 3.3): the registry of models that predict the first ego frame's latent."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from exo2ego.model.align.cross_attention import CrossAttention, CrossAttentionSettings
from exo2ego.model.align.pixelnerf import PixelNerf, PixelNerfSettings
from exo2ego.model.align.prediction import AlignGiven
from exo2ego.model.align.st_transformer import STTransformer, STTransformerSettings
from exo2ego.model.seeding import initial_weights_from

AlignSettings = Annotated[
    STTransformerSettings | CrossAttentionSettings | PixelNerfSettings,
    Field(discriminator="name"),
]
"""Settings of any EgoExo-Align; `name` says which."""
ALIGN_MODELS: Mapping[type, Callable[[Any], nn.Module]] = {
    STTransformerSettings: STTransformer,
    CrossAttentionSettings: CrossAttention,
    PixelNerfSettings: PixelNerf,
}
"""By the class of its settings: a module that makes an AlignPrediction of an AlignGiven."""


def build_align(settings: AlignSettings, generator: torch.Generator) -> nn.Module:
    """The model that the settings name, with initial weights drawn from `generator`."""
    with initial_weights_from(generator):
        return ALIGN_MODELS[type(settings)](settings)


def align_reads(settings: AlignSettings) -> tuple[str, ...]:
    """Names of the arrays that the model is given beside the first frames of `exo_latents`."""
    return settings.reads


def align_given(
    settings: AlignSettings, exo_first: Tensor, arrays: Mapping[str, Tensor]
) -> AlignGiven:
    """What the model is given, in float32: first latents "b v c h w", and of `arrays` its reads."""
    named = {name: arrays[name].float() for name in align_reads(settings)}
    return AlignGiven(exo_first.float(), **named)
