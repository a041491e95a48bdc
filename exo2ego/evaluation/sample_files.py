"""The files of one sampled clip: lossless frames, and pictures for people; and reading them back.

OUT/<clip>.safetensors         `frames` uint8 "T H W 3", lossless: what is evaluated
OUT/<clip>.ego.mp4  OUT/<clip>.side-by-side.mp4  OUT/<clip>.strip.png   to look at
"""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from exo2ego.evaluation.manifest import SamplesFault
from exo2ego.evaluation.picture import Panel, side_by_side, write_strip, write_video
from exo2ego.evaluation.scene import AS_STORED, Scene
from exo2ego.model.vae import LatentCodec, frames_from_video
from stores.atomic import write_whole
from stores.reading import Store
from stores.version import ABSENT_ROW

PICTURES = ("ego.mp4", "side-by-side.mp4", "strip.png")
"""Endings of what is to be looked at."""


def write_frames(out: Path, clip_id: str, frames: UInt8[Tensor, "T H W 3"]) -> str:
    """Writes the lossless frames; returns the file's name."""
    name = f"{clip_id}.safetensors"
    data = save({"frames": frames.cpu().contiguous()}, metadata={"clip": clip_id})
    write_whole(out / name, data)
    return name


def read_frames(
    path: Path, clip_id: str, shape: tuple[int, int, int] | None = None
) -> UInt8[Tensor, "T H W 3"]:
    """The lossless frames of a clip; `shape` is T, H, W, None if any will do.

    Raises SamplesFault, naming the clip, if they cannot be read, are another clip's, are no whole
    levels 0 to 255 (as NaN is none), or have another shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            of, frames = (file.metadata() or {}).get("clip", clip_id), file.get_tensor("frames")
    except (OSError, SafetensorError) as cause:
        raise _unreadable(path, clip_id, f"{type(cause).__name__}: {cause}") from cause
    if of != clip_id:
        raise _unreadable(path, clip_id, f"frames of the clip {of}")
    expected = (*shape, 3) if shape else (*frames.shape[:3], 3)
    if frames.dtype != torch.uint8 or tuple(frames.shape) != expected:
        bad = " with NaN" if frames.is_floating_point() and frames.isnan().any() else ""
        raise _unreadable(path, clip_id, f"{frames.dtype} {tuple(frames.shape)}{bad}", shape or ())
    return frames


def write_pictures(
    out: Path,
    store: Store,
    codec: LatentCodec,
    clip_id: str,
    frames: UInt8[Tensor, "T H W 3"],
    scene: Scene = AS_STORED,
) -> list[str]:
    """Writes what is to be looked at; returns the files' names."""
    names = [f"{clip_id}.{ending}" for ending in PICTURES]
    clips, made = store.recipe.clips, frames.cpu().numpy()
    row, shown = store.row(clip_id), scene.shown(store.row(clip_id))
    videos = kept_frames(store, codec, clip_id, "exo")[: len(row.present)]
    exos = [
        Panel(camera.cam_id + " (not shown)" * (view not in shown), video.numpy())
        for view, (camera, video) in enumerate(zip(row.present, videos, strict=True))
    ]
    truth = None
    if row.ego.video and scene.path is None:
        truth = Panel("truth", kept_frames(store, codec, clip_id, "ego")[0].numpy())
    together = side_by_side(exos, truth, Panel("generated", made))
    fps = clips.fps / clips.stride
    write_video(out / names[0], made, fps)
    write_video(out / names[1], together, fps)
    write_strip(out / names[2], made)
    return names


def kept_frames(
    store: Store, codec: LatentCodec, clip_id: str, side: str
) -> UInt8[Tensor, "v T H W 3"]:
    """The exo views or the one ego video: as they were cut, else decoded from their latents."""
    if store.row(clip_id).rows[f"{side}_frames"] != ABSENT_ROW:
        frames = torch.from_numpy(store.read(f"{side}_frames", [clip_id]))
        return frames[0] if side == "exo" else frames
    latents = torch.from_numpy(store.read(f"{side}_latents", [clip_id])).float().nan_to_num()
    axes = "1 t v c h w -> v c t h w" if side == "exo" else "v t c h w -> v c t h w"
    return frames_from_video(codec.decode(rearrange(latents, axes))).cpu()


def _unreadable(path: Path, clip_id: str, got: str, shape: tuple[int, ...] = ()) -> SamplesFault:
    return SamplesFault(
        f"The sample of {clip_id} cannot be read.",
        where=path,
        expected="a safetensors file of this clip with `frames`, uint8"
        + (f" {(*shape, 3)}" if shape else ""),
        got=got,
        fix="Remove the file and run `exo2ego sample` again; the others are kept.",
    )
