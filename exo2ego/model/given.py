"""What a video generator is given of some clips, beside the noise: data, not keyword arguments."""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from stores.errors import ShapeFault
from stores.schema import LATENT_CHANNELS, PATCH, VAE_FRAME_STRIDE, VAE_PIXEL_STRIDE


@dataclass(frozen=True)
class Given:
    """Conditions of a batch of clips; a generator does not look at what it has no use for."""

    condition: Float[Tensor, "b c t h w"]
    """Latents of the video that begins with what is known of the first ego frame."""
    exo_latents: Float[Tensor, "b v c t h w"]
    """NaN where a view is absent."""
    pose: Float[Tensor, "b ..."] | None = None
    """The array that the generator's form of pose conditioning reads (its `pose_reads`)."""
    keep_exo: Bool[Tensor, " b"] | None = None
    """False takes a clip's exo videos away, as guidance's null condition does."""
    views: Int[Tensor, "b v"] | None = None
    """Place of each view among all of a clip's; None: 0, 1, 2, ..."""

    @property
    def places(self) -> Int[Tensor, "b v"]:
        """Place of each view among all of a clip's."""
        clips, views = self.exo_latents.shape[:2]
        if self.views is not None:
            return self.views
        return torch.arange(views, device=self.exo_latents.device).expand(clips, views)

    def part(self, clips: list[int], views: list[int]) -> "Given":
        """Some of the clips, with some of their views."""
        return replace(
            self,
            condition=self.condition[clips],
            exo_latents=self.exo_latents[clips][:, views],
            pose=None if self.pose is None else self.pose[clips],
            views=self.places[clips][:, views],
            keep_exo=None if self.keep_exo is None else self.keep_exo[clips],
        )


def check_given(given: Given) -> None:
    """Raises ShapeFault unless exo and ego latents are of one grid that the model's patches fit.

    Shapes alone: numbers are not looked at, which would wait for a GPU.
    """
    ego, exo = tuple(given.condition.shape[1:]), tuple(given.exo_latents.shape[2:])
    channels, _, *hw = ego
    if ego == exo and channels == LATENT_CHANNELS and not any(side % PATCH for side in hw):
        return
    raise ShapeFault(
        "These latents do not fit the generator.",
        where="condition (c, t, h, w) and each exo view",
        expected=f"the same for both: {LATENT_CHANNELS} channels, rows and columns divisible by "
        f"{PATCH}",
        got=f"{ego} and {exo}",
        fix="Take both from one store: its recipe has one size and one number of frames.",
    )


def check_pose(given: Given, reads: str | None) -> None:
    """Raises ShapeFault unless there is a pose if and only if the model reads one."""
    if (reads is None) == (given.pose is None):
        return
    raise ShapeFault(
        "This generator is given a pose that it does not take, or lacks one.",
        where="Given.pose",
        expected=reads or "no pose: the generator has no pose conditioning",
        got="nothing" if given.pose is None else f"an array of {tuple(given.pose.shape)}",
        fix="Use `stages.given_of` with the run's own experiment.",
    )


def check_rays(rays: Float[Tensor, "b T 6 H W"], given: Given) -> None:
    """Raises ShapeFault unless the rays are of the frames and pixels of the latents' video."""
    t, h, w = given.condition.shape[2:]
    expected = ((t - 1) * VAE_FRAME_STRIDE + 1, h * VAE_PIXEL_STRIDE, w * VAE_PIXEL_STRIDE)
    got = (rays.shape[1], *rays.shape[3:])
    if got != expected:
        raise ShapeFault(
            "The rays are not those of this video.",
            where="Given.pose: frames, rows, columns",
            expected=f"{expected}, as the latents of {(t, h, w)} have",
            got=got,
            fix="Take latents and rays from one store.",
        )


def check_numbers(given: Given) -> None:
    """Raises ShapeFault if the condition, a pose or a view that is there holds NaN or infinity.

    A store refuses such rows, and training tells NaN by its loss; this is for what is sampled.
    """
    views = rearrange(given.exo_latents, "b v c t h w -> b v (c t h w)").isfinite()
    partly = views.any(dim=-1) & ~views.all(dim=-1)
    found = {
        "exo_latents": partly.any(dim=1),
        "condition": ~_finite(given.condition),
        "pose": torch.zeros_like(partly.any(dim=1)) if given.pose is None else ~_finite(given.pose),
    }
    for name, bad in found.items():
        if bad.any():
            raise ShapeFault(
                "What a video is to be made of is not a number.",
                where=f"Given.{name}, clip {int(bad.nonzero()[0])} of the batch",
                expected="finite numbers; NaN in all of an exo view that is absent",
                got="NaN or infinity among others",
                fix="Run `exo2ego store verify` if it is from a store.",
            )


def _finite(array: Tensor) -> Bool[Tensor, " b"]:
    return array.isfinite().flatten(1).all(dim=1)
