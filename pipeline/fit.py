"""How a video's frames become a clip's: through which lens, and how their shape meets hw."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from exo2ego.geometry.clip_lenses import ego_lens, exo_view, video_lens
from exo2ego.geometry.fit import middle_corner
from pipeline.video import Resampler
from stores.index import CameraRow
from stores.recipe import ClipRecipe


class FrameMaker:
    """Frames of one camera as a clip has them: `maker(frames)`, each by itself."""

    def __init__(self, recipe: ClipRecipe, camera: CameraRow, *, is_ego: bool):
        lens = video_lens(camera)
        self.source_hw, self._hw = lens.hw, recipe.hw
        self._part_hw, self._resample = lens.hw, Resampler(lens.hw, recipe.hw)
        if is_ego and recipe.ego_lens == "pinhole":
            self._resample = Resampler(lens, ego_lens(recipe, camera))
        elif not is_ego:
            self._fit_exo(recipe, camera)

    def __call__(self, frames: UInt8[Tensor, "n H W 3"]) -> UInt8[Tensor, "n H2 W2 3"]:
        """The frames, on the device they came on."""
        if tuple(frames.shape[1:3]) != self.source_hw:
            raise ValueError(f"frames of {tuple(frames.shape[1:3])}, made for {self.source_hw}")
        shown = self._resample(_middle(frames, self._part_hw))
        if tuple(shown.shape[1:3]) == self._hw:
            return shown
        black = torch.zeros(len(frames), *self._hw, 3, dtype=torch.uint8, device=frames.device)
        _middle(black, (shown.shape[1], shown.shape[2]))[:] = shown
        return black

    def _fit_exo(self, recipe: ClipRecipe, camera: CameraRow) -> None:
        view = exo_view(recipe, camera)
        if straight := view.shown_lens:
            self._resample = Resampler(view.video, straight)
        else:
            self._part_hw = view.fit.part_hw
            self._resample = Resampler(view.fit.part_hw, view.fit.shown_hw)


def _middle(frames: UInt8[Tensor, "n H W 3"], hw: tuple[int, int]) -> UInt8[Tensor, "n H2 W2 3"]:
    """The middle rows and columns of frames; a view, not a copy."""
    top, left = middle_corner((frames.shape[1], frames.shape[2]), hw)
    return frames[:, top : top + hw[0], left : left + hw[1]]
