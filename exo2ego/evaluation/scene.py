"""What a model is shown of a clip: some exo views, the ego camera on its own path or another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from exo2ego.evaluation.camera_path import CameraPath, clip_on_path
from exo2ego.geometry.clip_rays import CLIP_CAMERAS
from stores.damage import name_some
from stores.errors import UserFault
from stores.index import ClipRow
from stores.reading import Store


class SceneFault(UserFault, ValueError):
    """Views or a camera path with which nothing can be made."""


@dataclass(frozen=True)
class Scene:
    """What differs from the store; the ego rays stay relative to the clip's reference view."""

    views: tuple[int, ...] | None = None
    """Numbers of the exo views to show, 0 is the reference; a clip lacks the others. None: all."""
    path: CameraPath | None = None
    """Of the ego camera; None: its own."""

    def row(self, store: Store, clip_id: str) -> ClipRow:
        """The clip with the ego camera that is asked for."""
        return clip_on_path(store.row(clip_id), self.path)

    def shown(self, clip: ClipRow) -> list[int]:
        """Numbers of the views that are there and are to be shown, in the store's order."""
        there = range(len(clip.present))
        return [view for view in there if self.views is None or view in self.views]

    def masked(self, views: Float[Tensor, "b v ..."]) -> Float[Tensor, "b v ..."]:
        """The views with NaN in those that are not shown: as a clip that lacks them."""
        if self.views is None:
            return views
        hidden = [view for view in range(views.shape[1]) if view not in self.views]
        views = views.clone()
        views[:, hidden] = torch.nan
        return views

    def check(self, store: Store, clip_ids: Sequence[str]) -> None:
        """Raises SceneFault unless each clip has one of the views, and the store all of them."""
        if self.views is None:
            return
        total, counts = store.recipe.clips.views, store.view_counts(clip_ids)
        pairs = zip(clip_ids, counts, strict=True)
        bare = [clip_id for clip_id, count in pairs if not any(v < count for v in self.views)]
        unknown = [view for view in self.views if not 0 <= view < total]
        if bare or unknown or len(set(self.views)) != len(self.views) or not self.views:
            raise SceneFault(
                "These exo views cannot be shown.",
                where=f"{store.path}@{store.hash[:12]}, --views",
                expected=f"different numbers from 0 to {total - 1}, one at least of each clip",
                got=f"{list(self.views)}" + f"; {name_some(bare)} has none of them" * bool(bare),
                fix="Name other views, or choose other clips.",
            )

    def camera_array(
        self, store: Store, name: str, clip_ids: Sequence[str]
    ) -> Shaped[Tensor, "b ..."]:
        """An array of the cameras: as stored, or made of the path that is asked for."""
        if self.path is None:
            return torch.from_numpy(store.read(name, clip_ids))
        rows = [self.row(store, clip_id) for clip_id in clip_ids]
        made = [CLIP_CAMERAS[name](store.recipe.clips, row) for row in rows]
        return torch.from_numpy(np.stack(made))

    def first_latents(self, store: Store, clip_ids: Sequence[str]) -> Float[Tensor, "b v c h w"]:
        """Latent frame 0 of the exo videos; NaN where a view is not shown."""
        return self.masked(torch.from_numpy(store.read("exo_latents", clip_ids, first_frame=True)))

    def exo_latents(self, store: Store, clip_ids: Sequence[str]) -> Float[Tensor, "b v c t h w"]:
        """Latents of the exo videos; NaN where a view is not shown."""
        latents = torch.from_numpy(store.read("exo_latents", clip_ids))
        return self.masked(rearrange(latents, "b t v c h w -> b v c t h w"))


AS_STORED = Scene()
"""All views, and the ego camera's own path."""
