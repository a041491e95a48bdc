"""Videos in and frames out: headers, one pass of decoding, and frames as another lens sees them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, takewhile
from pathlib import Path
from typing import cast

import av
import av.error
import decord
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from exo2ego.geometry.lenses import Lens, pixel_centres
from stores.errors import UserFault

BATCH_FRAMES = 16
"""Frames that one call of the decoder returns: bounds memory, does not change a bit."""
_BOX_BYTES, _WIDE_BOX_BYTES = 8, 16


class VideoFault(UserFault, OSError):
    """A video that is missing, damaged or not what its take says."""


@dataclass(frozen=True)
class VideoHeader:
    """What a video's header says: frames, frames a second, and rows and columns."""

    frames: int
    fps: float
    hw: tuple[int, int]


def probe(path: Path) -> VideoHeader:
    """The video's header, without decoding. Raises VideoFault if it is damaged or cut short."""
    if not path.is_file():
        raise _fault(path, "a video file", "no such file")
    _check_whole(path)
    return _header(path)


def _header(path: Path) -> VideoHeader:
    try:
        with av.open(str(path)) as container:
            streams = container.streams.video
            if not streams:
                raise _fault(path, "a video stream", "none")
            stream = streams[0]
            frames = stream.frames or sum(bool(packet.size) for packet in container.demux(stream))
            header = VideoHeader(frames, float(stream.average_rate or 0), _hw(stream))
    except av.error.FFmpegError as damage:
        raise _fault(path, "a video that FFmpeg opens", damage.strerror) from damage
    if not header.frames or not all(header.hw):
        raise _fault(path, "frames", header)
    return header


def iterate_frames(
    path: Path, wanted: Sequence[int]
) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """Each wanted frame with its index, RGB, in one pass from front to back.

    `wanted` rises strictly. Raises VideoFault if the video is damaged or shorter than that."""
    if any(later <= sooner for sooner, later in pairwise(wanted)):
        raise ValueError("wanted frames must rise: a video is read once, front to back")
    header = probe(path)
    if wanted and not 0 <= wanted[0] <= wanted[-1] < header.frames:
        raise _fault(path, f"frames {wanted[0]} to {wanted[-1]}", f"{header.frames} frames")
    reader = _open(path, header)
    try:
        for first in range(0, len(wanted), BATCH_FRAMES):
            indices = list(wanted[first : first + BATCH_FRAMES])
            yield from zip(indices, _decode(path, reader, indices, header.hw), strict=True)
    finally:
        del reader  # decord's threads hold gigabytes until the reader is gone


def readable_frames(
    path: Path, wanted: Sequence[int]
) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"] | VideoFault]]:
    """As `iterate_frames`, but a frame that is damaged or cut off comes as its fault.

    Raises VideoFault only if nothing of the video can be read."""
    if not path.is_file():
        raise _fault(path, "a video file", "no such file")
    header = _header(path)
    reader, done = _decoder(path), 0
    try:
        for first in range(0, len(wanted), BATCH_FRAMES):
            indices = list(wanted[first : first + BATCH_FRAMES])
            yield from zip(indices, _decode(path, reader, indices, header.hw), strict=True)
            done = first + len(indices)
    except VideoFault as fault:
        damage = fault
    else:
        return
    finally:
        del reader  # decord's threads hold gigabytes until the reader is gone
    # decord runs ahead, and may meet the damage before it gives the frames that come before
    whole = _frames_before_damage(path, wanted[done:])
    for index in wanted[done:]:
        yield index, next(whole, damage)


def _frames_before_damage(
    path: Path, wanted: Sequence[int]
) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The wanted frames, one by one from the front, as far as every packet is whole."""
    numbers = set(wanted)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            packets = takewhile(lambda packet: not packet.is_corrupt, container.demux(stream))
            frames = chain.from_iterable(packet.decode() for packet in packets)
            for number, frame in enumerate(cast("Iterator[av.VideoFrame]", frames)):
                if number in numbers:
                    yield frame.to_ndarray(format="rgb24")
    except av.error.FFmpegError:
        return


class Resampler:
    """Frames of one camera as the target sees them: squashed between sizes, or drawn anew.

    Two sizes (rows, columns): squash with antialiasing. Two lenses of one camera centre: each
    target pixel is the mean of supersamples taken through the source lens, and black where the
    source sees nothing. Bits do not depend on how many frames come at once."""

    def __init__(self, source: Lens | tuple[int, int], target: Lens | tuple[int, int]):
        self.source_hw = source if isinstance(source, tuple) else source.hw
        self.target_hw = target if isinstance(target, tuple) else target.hw
        self.supersamples = 1
        self._grid: Tensor | None = None
        if isinstance(source, tuple) != isinstance(target, tuple):
            raise TypeError("give two sizes or two lenses, not one of each")
        if not isinstance(source, tuple) and not isinstance(target, tuple):
            self.supersamples = _supersamples(source, target)
            self._grid = _sampling_grid(source, target, self.supersamples)

    def __call__(self, frames: UInt8[Tensor, "n H W 3"]) -> UInt8[Tensor, "n H2 W2 3"]:
        """The frames, each resampled by itself, on the device they came on."""
        if tuple(frames.shape[1:3]) != self.source_hw:
            raise ValueError(f"frames of {tuple(frames.shape[1:3])}, made for {self.source_hw}")
        out = frames.new_empty(len(frames), *self.target_hw, 3)
        for row, frame in enumerate(frames):
            pixels = rearrange(frame, "H W rgb -> 1 rgb H W").contiguous().to(torch.float32)
            drawn = self._squash(pixels) if self._grid is None else self._draw(pixels, self._grid)
            out[row] = rearrange(drawn.round().clamp(0, 255).to(torch.uint8), "1 C H W -> H W C")
        return out

    def _squash(self, pixels: Float[Tensor, "1 3 H W"]) -> Float[Tensor, "1 3 H2 W2"]:
        if self.source_hw == self.target_hw:
            return pixels
        return interpolate(
            pixels, self.target_hw, mode="bilinear", align_corners=False, antialias=True
        )

    def _draw(
        self, pixels: Float[Tensor, "1 3 H W"], grid: Float[Tensor, "1 kH kW 2"]
    ) -> Float[Tensor, "1 3 H2 W2"]:
        self._grid = grid = grid.to(pixels.device)
        samples = grid_sample(
            pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
        return avg_pool2d(samples, self.supersamples)


def _supersamples(source: Lens, target: Lens) -> int:
    # The centre is where a pinhole packs most source pixels into one of its own.
    middle = torch.tensor([target.hw[1] / 2, target.hw[0] / 2], dtype=torch.float64)
    steps = torch.tensor([[0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    directions, _ = target.unproject(middle + steps)
    pixels, _ = source.project(directions)
    source_px = (pixels[1:] - pixels[0]).square().sum(-1).sqrt().max().item()
    return max(1, math.ceil(source_px)) if math.isfinite(source_px) else 1


def _sampling_grid(source: Lens, target: Lens, supersamples: int) -> Float[Tensor, "1 kH kW 2"]:
    fine_hw = (target.hw[0] * supersamples, target.hw[1] * supersamples)
    directions, in_target = target.resized(fine_hw).unproject(pixel_centres(fine_hw))
    pixels, in_source = source.project(directions)
    extent_px = torch.tensor([source.hw[1], source.hw[0]], dtype=torch.float64)
    inside = ((pixels >= 0) & (pixels <= extent_px)).all(-1) & in_target & in_source
    # grid_sample's -1 and 1 are the image's borders, which pixel centres at +0.5 put at 0 and W.
    grid = torch.where(inside[..., None], 2 * pixels / extent_px - 1, -3.0)
    return rearrange(grid.to(torch.float32), "H W xy -> 1 H W xy")


def _decode(
    path: Path, reader: decord.VideoReader, indices: list[int], hw: tuple[int, int]
) -> UInt8[np.ndarray, "n H W 3"]:
    try:
        frames = reader.get_batch(indices).asnumpy()
    except (decord.DECORDError, IndexError, RuntimeError) as damage:
        raise _fault(path, "frames that decode", str(damage).partition("\n")[0]) from damage
    if frames.shape[1:3] != hw:
        raise _fault(path, f"frames of {hw}", f"frames of {frames.shape[1:3]}")
    return frames


def _open(path: Path, header: VideoHeader) -> decord.VideoReader:
    reader = _decoder(path)
    if len(reader) != header.frames:
        raise _fault(path, f"{header.frames} frames, as the header says", len(reader))
    return reader


def _decoder(path: Path) -> decord.VideoReader:
    decord.logging.set_level(decord.logging.QUIET)  # damage is told by our fault, not by FFmpeg
    try:
        return decord.VideoReader(str(path), num_threads=1)
    except (decord.DECORDError, RuntimeError) as damage:
        raise _fault(path, "a video that decord opens", str(damage).partition("\n")[0]) from damage


def _hw(stream: av.VideoStream) -> tuple[int, int]:
    return int(stream.height or 0), int(stream.width or 0)


def _check_whole(path: Path) -> None:
    # FFmpeg opens a file whose end is missing; the lengths of its outer boxes tell.
    size, position = path.stat().st_size, 0
    if not size:
        raise _fault(path, "a video", "an empty file (0 bytes)")
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            head = file.read(_WIDE_BOX_BYTES)
            if len(head) < _BOX_BYTES:
                raise _fault(path, "whole boxes", f"{len(head)} stray bytes at {position}")
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:], "big")
            if length == 0:  # "to the end of the file"
                return
            if length < _BOX_BYTES or position + length > size:
                missing = f"box {head[4:8]!r} of {length} bytes at {position} of {size}"
                raise _fault(path, "a whole mp4 file", missing)
            position += length


def _fault(path: Path, expected: object, got: object) -> VideoFault:
    return VideoFault(
        "The video cannot be read.",
        where=path,
        expected=expected,
        got=got,
        fix="Fetch it again (`egoexo --force`), or leave its take out.",
    )
