"""What a video generator is given of some clips, beside the noise: data, not keyword arguments."""

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float
from torch import Tensor


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

    def part(self, clips: list[int], views: list[int]) -> "Given":
        """Some of the clips, with some of their views."""
        return replace(
            self,
            condition=self.condition[clips],
            exo_latents=self.exo_latents[clips][:, views],
            pose=None if self.pose is None else self.pose[clips],
            keep_exo=None if self.keep_exo is None else self.keep_exo[clips],
        )
