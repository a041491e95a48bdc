"""A study's videos: frames of samples, checked; encoded all alike; padded to one size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file

from exo2ego.evaluation.study.folder import StudyFault

RGB = 3
BOX_HEADER_BYTES = 8
"""Length and type of a box of an mp4 file (ISO/IEC 14496-12, 4.2)."""
MTIME = 946_684_800
"""The time that every video bears, in seconds since 1970: the order of writing tells nothing."""


def read_frames(path: Path) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of one sample. Raises StudyFault if they cannot be read or are no video."""
    try:
        frames = load_file(path)["frames"]
    except (OSError, SafetensorError, KeyError) as cause:
        raise _unreadable(path, f"{type(cause).__name__}: {cause}") from cause
    if frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == RGB and frames.size:
        return frames
    got = f"{frames.dtype} {frames.shape}"
    if np.issubdtype(frames.dtype, np.floating) and np.isnan(frames).any():
        got += f", {np.isnan(frames).sum()} values of which are NaN"
    raise _unreadable(path, got)


def pad_to_one_size(paths: Sequence[Path]) -> int:
    """Makes all files as long as the longest by a `free` box, which players skip.

    Returns that length in bytes. So the length of an answer tells no video from another.
    """
    longest = max(path.stat().st_size for path in paths) + BOX_HEADER_BYTES
    for path in paths:
        missing = longest - path.stat().st_size
        with path.open("ab") as file:
            file.write(missing.to_bytes(4, "big") + b"free" + bytes(missing - BOX_HEADER_BYTES))
    return longest


def _unreadable(path: Path, got: str) -> StudyFault:
    return StudyFault(
        "This sample is no video that can be shown.",
        where=path,
        expected="a safetensors file with `frames`, uint8, (T, H, W, 3)",
        got=got,
        fix="Remove the file and run `exo2ego sample` again; the others are kept.",
    )
