"""The failure modes of the paper's section 11, each found by a measure and a threshold of ours."""

from collections.abc import Callable
from dataclasses import dataclass

from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from exo2ego.evaluation.camera_timing import motion
from exo2ego.evaluation.sharpness import gradient_energy

POOR_FIRST_FRAME_DB = 12.0
"""Choice: below it a first frame is poor; the paper's mean PSNR of whole clips is 14.0 to 16.7."""
PLAIN_ENERGY = 25.0
"""Choice, in levels squared: below it a first frame is textureless; a step of 5 of 255 levels."""
FAST_SHARE = 0.05
"""Choice: of the frame's width that the true picture moves from frame to frame, on average."""


@dataclass(frozen=True)
class ClipMeasures:
    """What the modes look at in a clip; None is not measured."""

    first_psnr: float
    """Of the generated first frame against the true one, in decibels."""
    first_energy: float | None
    """Gradient energy of the generated first frame, in levels squared."""
    speed: float | None
    """Share of the width by which the true picture moves a frame, on average."""


@dataclass(frozen=True)
class Mode:
    """One way to fail."""

    name: str
    about: str
    """Measure and threshold, in words."""
    value: Callable[[ClipMeasures], float | None]
    fails: Callable[[ClipMeasures], bool]
    low_is_worst: bool
    lacks: str
    """What to give where the measure is missing."""


MODES: tuple[Mode, ...] = (
    Mode(
        "Poor first frame",
        f"PSNR of the first frame below {POOR_FIRST_FRAME_DB:g} dB",
        lambda clip: clip.first_psnr,
        lambda clip: clip.first_psnr < POOR_FIRST_FRAME_DB,
        True,
        "",
    ),
    Mode(
        "Textureless first frame",
        f"gradient energy of the generated first frame below {PLAIN_ENERGY:g} levels squared, "
        f"and no poor first frame",
        lambda clip: clip.first_energy,
        lambda clip: (
            clip.first_energy is not None
            and clip.first_energy < PLAIN_ENERGY
            and clip.first_psnr >= POOR_FIRST_FRAME_DB
        ),
        True,
        "the folder of samples with its lossless frames",
    ),
    Mode(
        "Fast motion",
        f"the true picture moves by more than {100 * FAST_SHARE:g} % of its width a frame "
        "(mean optical flow)",
        lambda clip: clip.speed,
        lambda clip: clip.speed is not None and clip.speed > FAST_SHARE,
        False,
        "--store",
    ),
)
"""In the paper's order."""


def first_energy(frames: UInt8[Tensor, "T H W 3"]) -> float:
    """Gradient energy of the first frame, in levels squared."""
    return gradient_energy(frames[:1]).item()


def speed(truth: UInt8[Tensor, "T H W 3"]) -> float:
    """Mean length of the optical flow from frame to frame, as a share of the width."""
    cells = rearrange(motion(truth), "t (xy cell) -> t xy cell", xy=2)
    return cells.norm(dim=1).mean().item() / truth.shape[2]
