"""EgoExo-Align on every frame by itself: the paper's baseline video (section 7, Fig. 6)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from exo2ego.evaluation.filming import Film, Filming, shown_frames
from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from exo2ego.model.align import align_given, align_reads
from exo2ego.model.vae import LatentCodec, video_from_frames
from exo2ego.training.experiment import AlignExperiment
from exo2ego.training.experiment_file import parse_experiment
from exo2ego.training.stages import arithmetic, load_model
from stores.index import CameraRow, ClipRow
from stores.recipe import ClipRecipe


def per_frame_align(filming: Filming) -> Film:
    """Ego frames of which each is the decoded prediction from the exo frames of that time.

    No frame knows of another one: each is encoded, predicted and decoded as a first frame is.
    Frame 0 so is the decoding of what first_frames predicts. A clip needs its `exo_frames`.
    """
    where = filming.checkpoint
    experiment = cast(AlignExperiment, parse_experiment(filming.state.experiment, where=where))
    model = load_model(where, wan_spec=None, device=filming.device, ema=filming.ema)
    store, codec, scene = filming.store, filming.codec, filming.scene

    def film_one(clip_id: str) -> UInt8[Tensor, "1 T H W 3"]:
        row = scene.row(store, clip_id)
        shown = scene.shown(row)
        views = torch.from_numpy(store.read("exo_frames", [clip_id])[0, shown])
        latents = [
            predict_frame(
                model,
                experiment,
                codec,
                store.recipe.clips,
                clip_of_frame(row, number),
                views[:, number],
                shown,
            )
            for number in range(len(row.frames))
        ]
        # as videos of one frame each: no frame is decoded in the light of another
        stills = rearrange(torch.cat(latents), "T c h w -> T c 1 h w")
        video = rearrange(codec.decode(stills), "T rgb 1 H W -> 1 rgb T H W")
        return shown_frames(video, [clip_id])

    def film(clip_ids: Sequence[str]) -> UInt8[Tensor, "b T H W 3"]:
        return torch.cat([film_one(clip_id) for clip_id in clip_ids])

    return film


@torch.no_grad()
def predict_frame(
    model: nn.Module,
    experiment: AlignExperiment,
    codec: LatentCodec,
    recipe: ClipRecipe,
    clip: ClipRow,
    views: UInt8[Tensor, "v H W 3"],
    numbers: Sequence[int],
) -> Float[Tensor, "1 c h w"]:
    """Latent of the first ego frame of a clip, float32, from exo frames of its first time.

    `views` are those of the clip's views that `numbers` names.
    Latents and rays are rounded to what a store keeps of them, as the model was trained on that.
    """
    video = video_from_frames(rearrange(views, "v H W rgb -> v 1 H W rgb"))
    exo_first = rearrange(codec.encode(video).half(), "v c 1 h w -> 1 v c h w")
    arrays = {}
    for name in align_reads(experiment.align):
        of_views = torch.from_numpy(CLIP_CAMERAS[name](recipe, clip)[list(numbers)])
        arrays[name] = rearrange(of_views, "v ... -> 1 v ...").to(exo_first.device)
    with arithmetic(experiment.precision, exo_first.device.type):
        return model(align_given(experiment.align, exo_first, arrays)).latent.float()


def clip_of_frame(clip: ClipRow, number: int) -> ClipRow:
    """The clip that is one frame of this one, with the cameras where they stood then."""
    return replace(
        clip,
        frames=(clip.frames[number],),
        ego=_camera_then(clip.ego, number),
        exos=tuple(exo and _camera_then(exo, number) for exo in clip.exos),
    )


def _camera_then(camera: CameraRow, number: int) -> CameraRow:
    """The camera at the time of one frame; one that stands still has one pose for all."""
    poses = camera.world_from_cam
    return camera if len(poses) == 1 else replace(camera, world_from_cam=poses[number, None])
