"""What every test may rely on: one thread, and loud skips for what this machine lacks."""

import os

import pytest
import torch

# Two threads on tiny tensors wait for each other; and results must not depend on their number.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, with the reason, the tests whose marker names something that is not here."""
    lacking = {}
    if not torch.cuda.is_available():
        lacking["gpu"] = "needs a CUDA device: not measured on this machine"
    if "EXO2EGO_WEIGHTS" not in os.environ:
        lacking["weights"] = "needs EXO2EGO_WEIGHTS=<folder of Wan2.2-I2V-A14B-Diffusers>"
    for item in items:
        for marker, reason in lacking.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
