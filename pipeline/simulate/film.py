"""One take's videos: every camera's frames drawn and encoded as they come."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from jaxtyping import UInt8

from exo2ego.geometry.lenses import Lens
from pipeline.simulate.optics import make_optics
from pipeline.simulate.render import FixedCamera, Painter
from pipeline.simulate.rig import EGO_CIRCLE, GOPRO_HW, ExoCamera, Rig
from pipeline.simulate.scene import Scene
from pipeline.simulate.traits import FRAMES_PER_SECOND

KEY_FRAMES_APART = 250
"""As in the real videos: what makes seeking in them slow."""
STEADY = "threads=1:rc-lookahead=0:mbtree=0:b-adapt=0:scenecut=0:weightp=0"
"""One thread and no look-ahead: x264's look-ahead reads memory that it has not written, and the
same frames came out as other bytes now and then (docs/decisions.md)."""


class VideoFile:
    """An h264 file that grows by frames; the same frames make the same bytes."""

    def __init__(self, path: Path, hw: tuple[int, int]):
        self._file = av.open(str(path), "w")
        options = {"preset": "veryfast", "crf": "20", "x264-params": STEADY}
        stream = self._file.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        self._stream = cast(VideoStream, stream)
        self._stream.height, self._stream.width = hw
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.gop_size = KEY_FRAMES_APART
        self._stream.codec_context.thread_count = 1

    def add(self, picture: UInt8[np.ndarray, "H W 3"]) -> None:
        """Appends a frame."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        self._file.mux(self._stream.encode(frame))

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *_: object) -> None:
        """Writes what the encoder still holds, and closes."""
        self._file.mux(self._stream.encode())
        self._file.close()


def exo_hw(height: int) -> tuple[int, int]:
    """Size of a GoPro's small copy: the short side given, the other the nearest even number."""
    return height, 2 * round(GOPRO_HW[1] * height / GOPRO_HW[0] / 2)


@dataclass(frozen=True)
class Filming:
    """How a take is drawn: rows of its videos, samples a pixel's side, and on which device."""

    height: int
    samples: int
    device: str


def film(scene: Scene, rig: Rig, paths: dict[str, Path], filming: Filming) -> None:
    """Writes the video of every exo camera, and of the glasses ("ego"), to its path.

    A camera is one thread's work from its first ray to its last byte, so that threads only
    decide when it is done.
    """
    painter = Painter(scene, filming.device)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        jobs = [pool.submit(_film_ego, painter, rig.ego_lens, paths["ego"], filming)]
        jobs += [
            pool.submit(_film_exo, painter, exo, paths[exo.cam_id], filming) for exo in rig.exos
        ]
        for job in jobs:
            job.result()


def _film_exo(painter: Painter, exo: ExoCamera, path: Path, filming: Filming) -> None:
    hw = exo_hw(filming.height)
    optics = make_optics(exo.lens, hw, samples=filming.samples, device=filming.device)
    camera = FixedCamera(painter, optics, exo.room_from_cam)
    with VideoFile(path, hw) as video:
        for frame in range(painter.scene.frames):
            video.add(camera.picture(frame))


def _film_ego(painter: Painter, lens: Lens, path: Path, filming: Filming) -> None:
    hw = (filming.height, filming.height)
    optics = make_optics(
        lens, hw, samples=filming.samples, device=filming.device, circle_per_width=EGO_CIRCLE
    )
    with VideoFile(path, hw) as video:
        for frame, pose in enumerate(painter.scene.room_from_eye):
            video.add(painter.picture(optics, pose, frame, in_ego=True))
