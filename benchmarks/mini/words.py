"""Words as tokens for the miniature foundation model: each its own fixed random vector."""

from collections.abc import Sequence
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor

TEXT_WIDTH = 64
MOST_WORDS = 8


def prompt_tokens(prompts: Sequence[str]) -> Float[Tensor, "b 8 64"]:
    """A token for each word, and zeros after the last: an empty prompt is zeros alone."""
    tokens = torch.zeros(len(prompts), MOST_WORDS, TEXT_WIDTH)
    for row, prompt in enumerate(prompts):
        for place, word in enumerate(prompt.split()[:MOST_WORDS]):
            tokens[row, place] = _vector(word)
    return tokens


def _vector(word: str) -> Float[Tensor, "64"]:
    return torch.randn(TEXT_WIDTH, generator=torch.Generator().manual_seed(crc32(word.encode())))
