"""EgoExo-Align (paper 3.3): the registry of models that predict the first ego frame's latent."""

import torch

from exo2ego.model.align.st_transformer import STTransformer, STTransformerSettings
from exo2ego.model.seeding import initial_weights_from

AlignSettings = STTransformerSettings
"""Settings of any EgoExo-Align; `name` says which."""
AlignModel = STTransformer
"""Any EgoExo-Align: (exo_first, align_rays) -> AlignPrediction."""


def build_align(settings: AlignSettings, generator: torch.Generator) -> AlignModel:
    """The model that the settings name, with initial weights drawn from `generator`."""
    with initial_weights_from(generator):
        return STTransformer(settings)
