"""LPIPS with AlexNet, version 0.1: the trunk's layers, the learned heads, and loading both.

The heads (6 KB, BSD 2-clause, LPIPS_LICENSE beside them) are package data. The trunk is
torchvision's AlexNet, which the user's machine downloads once; torchvision itself is not needed.
"""

import hashlib
import pickle
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from exo2ego.evaluation.metrics import FULL_SCALE
from stores.errors import UserFault


class Layer(NamedTuple):
    """One convolution of the trunk."""

    channels: int
    kernel: int
    stride: int
    padding: int
    pooled: bool
    """True if a 3/2 max pool comes before it."""


HEADS_FILE = "lpips_alex.safetensors"
TRUNK_FILE = "alexnet-owt-7be5be79.pth"
TRUNK_SHA256 = "7be5be79"
"""How the file's SHA-256 begins: torchvision puts it into the name."""
TRUNK_URL = f"https://download.pytorch.org/models/{TRUNK_FILE}"
LAYERS = {
    "features.0": Layer(channels=64, kernel=11, stride=4, padding=2, pooled=False),
    "features.3": Layer(channels=192, kernel=5, stride=1, padding=2, pooled=True),
    "features.6": Layer(channels=384, kernel=3, stride=1, padding=1, pooled=True),
    "features.8": Layer(channels=256, kernel=3, stride=1, padding=1, pooled=False),
    "features.10": Layer(channels=256, kernel=3, stride=1, padding=1, pooled=False),
}
"""AlexNet's five convolutions, by torchvision's names."""
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""What the heads were learned with: ((2 x - 1) - shift) / scale for x in [0, 1]."""
NORM_FLOOR = 1e-10


class TrunkFault(UserFault, OSError):
    """AlexNet weights that are not those of the metric."""


class Lpips(nn.Module):
    """Perceptual distance: squared differences of unit-length features, weighed by the heads."""

    def __init__(self, trunk: dict[str, Tensor], heads: dict[str, Tensor]):
        super().__init__()
        self.convolutions = nn.ModuleList()
        channels = 3
        for name, layer in LAYERS.items():
            convolution = nn.Conv2d(
                channels, layer.channels, layer.kernel, layer.stride, layer.padding
            )
            convolution.load_state_dict(
                {part: trunk[f"{name}.{part}"] for part in ("weight", "bias")}
            )
            self.convolutions.append(convolution)
            channels = layer.channels
        for depth in range(len(LAYERS)):
            self.register_buffer(
                f"head_{depth}", rearrange(heads[f"lin{depth}.weight"], "1 c 1 1 -> c")
            )
        self.register_buffer("shift", rearrange(torch.tensor(SHIFT), "rgb -> rgb 1 1"))
        self.register_buffer("scale", rearrange(torch.tensor(SCALE), "rgb -> rgb 1 1"))
        self.requires_grad_(False)

    def forward(
        self, frames: UInt8[Tensor, "n H W 3"], truth: UInt8[Tensor, "n H W 3"]
    ) -> Float[Tensor, " n"]:
        """Distance of each frame to its truth: 0 for equal frames, larger is worse."""
        distance = torch.zeros(len(frames), device=frames.device)
        for depth, (x, y) in enumerate(
            zip(self.features(frames), self.features(truth), strict=True)
        ):
            squared = (x - y) ** 2
            weighed = torch.einsum("n c h w, c -> n h w", squared, self.get_buffer(f"head_{depth}"))
            distance = distance + reduce(weighed, "n h w -> n", "mean")
        return distance

    def features(self, frames: UInt8[Tensor, "n H W 3"]) -> list[Float[Tensor, "n _ _ _"]]:
        """The five ReLU outputs, each of unit length over its channels."""
        x = rearrange(frames, "n H W rgb -> n rgb H W").float() / FULL_SCALE
        x = (2 * x - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        outputs = []
        for layer, convolution in zip(LAYERS.values(), self.convolutions, strict=True):
            if layer.pooled:
                x = functional.max_pool2d(x, kernel_size=3, stride=2)
            x = functional.relu(convolution(x))
            length = torch.sqrt(reduce(x**2, "n c h w -> n 1 h w", "sum"))
            outputs.append(x / (length + NORM_FLOOR))
        return outputs


def load_heads() -> dict[str, Tensor]:
    """The learned 1x1 heads `lin0.weight` to `lin4.weight`, each "1 c 1 1"."""
    with as_file(files("exo2ego.evaluation") / HEADS_FILE) as path:
        return load_file(path)


def default_trunk_path() -> Path:
    """Where torch's hub keeps AlexNet once it was downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / TRUNK_FILE


def load_lpips(trunk: Path | None = None, *, device: str = "cpu") -> Lpips | None:
    """The metric, or None if no trunk is given and none is in torch's hub folder.

    Raises TrunkFault if the file at hand is not AlexNet as torchvision publishes it.
    """
    path = trunk if trunk is not None else default_trunk_path()
    if trunk is None and not path.is_file():
        return None
    return Lpips(_read_trunk(path), load_heads()).to(device)


def _read_trunk(path: Path) -> dict[str, Tensor]:
    """The trunk's weights from torchvision's file; nothing in it is executed (weights_only)."""
    try:
        if not (digest := _sha256(path)).startswith(TRUNK_SHA256):
            raise _not_alexnet(path, f"a file of SHA-256 {digest[:16]}...")
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {
            f"{name}.{part}": state[f"{name}.{part}"]
            for name in LAYERS
            for part in ("weight", "bias")
        }
    except TrunkFault:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as cause:
        raise _not_alexnet(path, f"{type(cause).__name__}: {cause}") from cause


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _not_alexnet(path: Path, got: str) -> TrunkFault:
    return TrunkFault(
        "These are not the AlexNet weights that LPIPS is defined with.",
        where=path,
        expected=f"torchvision's {TRUNK_FILE}: its SHA-256 begins with {TRUNK_SHA256}",
        got=got,
        fix=f"Download {TRUNK_URL} to {default_trunk_path()}.",
    )
