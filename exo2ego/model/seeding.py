"""Random initial weights from a generator, without touching the process's own random state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

LARGEST_SEED = 2**62


@contextmanager
def initial_weights_from(generator: torch.Generator) -> Iterator[None]:
    """Within it, modules made on the CPU take their weights from `generator` alone.

    torch's layers draw from the process's generator; it is seeded by one draw from ours, and
    has its old state back at the end.
    """
    seed = torch.randint(LARGEST_SEED, (), generator=generator, device=generator.device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        yield
