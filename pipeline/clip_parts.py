"""What one clip's rows are made of: new latents and frames, and views that stay as stored."""

from functools import partial

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float16

from exo2ego.geometry.clip_rays import CLIP_RAYS
from exo2ego.model.vae import LatentCodec, video_from_frames
from pipeline.clip_frames import ClipFrames
from pipeline.encode_plan import ClipWork
from stores.arrays import RowDamage, open_readers, row_digest
from stores.place import Place
from stores.recipe import ClipRecipe
from stores.schema import ARRAYS
from stores.settings import read_settings


class ClipParts:
    """One clip's latents and frames, view by view, and the rows that they make up.

    Bounded by what its arrays hold: frames go as soon as they are encoded, unless they are kept.
    """

    def __init__(self, store: Place, recipe: ClipRecipe, work: ClipWork):
        self._store, self._recipe, self._work = store, recipe, work
        self._parts: dict[tuple[str, int | None], np.ndarray] = {}

    def take(self, codec: LatentCodec | None, view: int | None, frames: ClipFrames) -> None:
        """Encodes and keeps one view's frames, as far as the clip's arrays want them.

        Without latents among them there need be no codec."""
        who = "ego" if view is None else "exo"
        makers = {
            f"{who}_latents": partial(encode_frames, codec, frames),
            f"{who}_frames": frames.numpy,
        }
        for array, make in makers.items():
            of_view = view is None or view in self._work.views.get(array, ())
            if array in self._work.arrays and of_view:
                self._parts[array, view] = make()

    def row(self, array: str) -> np.ndarray:
        """The clip's row. Raises CameraError or RowDamage if it cannot be made."""
        if array in CLIP_RAYS:
            return CLIP_RAYS[array](self._recipe, self._work.clip)
        if array not in self._work.views:
            return self._parts[array, None]
        row = self._stored_row(array) if array in self._work.kept_rows else self._absent_row(array)
        axis = ARRAYS[array].axes.split().index("v")
        by_view, absent = np.moveaxis(row, axis, 0), self._absent_value(array)
        for view in self._work.views[array]:
            by_view[view] = self._parts.get((array, view), absent)
        return row

    def _absent_row(self, array: str) -> np.ndarray:
        spec = ARRAYS[array]
        shape = spec.row_shape(self._recipe.shape)
        return np.full(shape, self._absent_value(array), dtype=spec.dtype)

    def _stored_row(self, array: str) -> np.ndarray:
        """A copy of the row that the store has now, once it is what the manifest says."""
        size, spec = read_settings(self._store).clips_per_shard, ARRAYS[array]
        group = self._store / "arrays"
        reader = open_readers(group, {array: spec}, self._recipe.shape, size, check=True)[array]
        row, digest = self._work.kept_rows[array]
        numbers = reader.read([row])[0]
        if row_digest(reader.layout, numbers) != digest:
            raise RowDamage(reader.shard_of(row), row, "it holds other numbers than it should")
        return numbers.copy()

    @staticmethod
    def _absent_value(array: str) -> float:
        # bytes have no NaN, so the frames of an absent view are black
        return np.nan if np.dtype(ARRAYS[array].dtype).kind == "f" else 0.0


def encode_frames(codec: LatentCodec | None, frames: ClipFrames) -> Float16[np.ndarray, "t c h w"]:
    """Latents of one view of one clip, as they are stored."""
    if codec is None:
        raise ValueError("latents are asked for, and there is no codec")
    latents = codec.encode(video_from_frames(frames[None]))
    return rearrange(latents, "1 c t h w -> t c h w").to(torch.float16).cpu().numpy()
