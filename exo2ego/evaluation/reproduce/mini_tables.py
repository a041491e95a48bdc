"""The tables of the miniature world (docs/experiments.md) as data: their systems, and the one that
the others are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass

from exo2ego.evaluation.tables.published import System

_ALIGN = "mini-align"
_OURS = "ours"
_FOUR_VIEWS = "VAWAN, 4 views"
_WIDE = "AC3D, 128 channels, 4 views"
_MOTION = "rays in the first ego frame"
_LARGE = "ST-Transformer, large"
_ARCHITECTURES = {
    "Cross-Attn, no pose": "mini-align-cross-attention-nopose",
    "Cross-Attn": "mini-align-cross-attention",
    "Pixel-NeRF": "mini-align-pixelnerf",
    "ST-Transformer, small": "mini-align-s",
    _LARGE: _ALIGN,
}
"""Experiments of EgoExo-Align, by the row."""


@dataclass(frozen=True)
class MiniTable:
    """Systems side by side, by what they are called; every generator is trained for as long."""

    systems: Mapping[str, System]
    compared: str
    """Of these, what the others' scores are taken from, take by take."""
    has_foundation: bool = False
    """Whether the foundation model, given an exo frame, is its first row."""


MINI_TABLES: Mapping[str, MiniTable] = {
    "mini": MiniTable(
        {
            "VAWAN": System(experiment="mini-vawan", align=_ALIGN),
            "ours without EgoExo-Align": System(experiment="mini-poseinj-no-align"),
            "ours without PoseInj": System(experiment="mini-multiexocon-alone", align=_ALIGN),
            _OURS: System(experiment="mini-poseinj", align=_ALIGN),
            "ours, given the true first frame": System(experiment="mini-poseinj-gt"),
        },
        compared=_OURS,
        has_foundation=True,
    ),
    "mini-views": MiniTable(
        {
            "VAWAN, 1 view": System(experiment="mini-vawan-v1", align=_ALIGN),
            _FOUR_VIEWS: System(experiment="mini-vawan", align=_ALIGN),
        },
        compared=_FOUR_VIEWS,
    ),
    "mini-architectures": MiniTable(
        {row: System(experiment=align) for row, align in _ARCHITECTURES.items()},
        compared=_LARGE,
    ),
    "mini-architectures-vawan": MiniTable(
        {row: System(experiment="mini-vawan", align=of) for row, of in _ARCHITECTURES.items()},
        compared=_LARGE,
    ),
    "mini-poses": MiniTable(
        {
            "Time&Pose, 1 view": System(experiment="mini-vawan-gt-time-and-pose-v1"),
            "AC3D, 64 channels, 1 view": System(experiment="mini-vawan-gt-ac3d-64-v1"),
            "AC3D, 64 channels, 4 views": System(experiment="mini-vawan-gt-ac3d-64-v4"),
            "AC3D, 64 channels, 4 views, shared": System(experiment="mini-vawan-gt-ac3d-64-shared"),
            _WIDE: System(experiment="mini-vawan-gt-ac3d-128"),
        },
        compared=_WIDE,
    ),
    "mini-rays": MiniTable(
        {
            "rays in the reference exo camera": System(experiment="mini-poseinj-gt"),
            _MOTION: System(experiment="mini-poseinj-gt-motion"),
        },
        compared=_MOTION,
    ),
}
"""By what `exo2ego reproduce` calls them: the modules (Tables 1, 2 and 4), exo views (Table 5),
EgoExo-Align's architectures, frame by frame without a generator (section 7) and giving VAWAN its
first frames (Table 3), VAWAN's pose conditioning, given the true first frame (Table 6), and what
PoseInj's rays are written in (beyond the paper). Widths of AC3D's blocks are the paper's 10 and
40 % of Wan's channels, the narrow ones of a whole head: 64 of 320."""
