"""What any EgoExo-Align is given, what it predicts, and how it meets clips that lack views."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from exo2ego.model.views import by_views
from stores.errors import ShapeFault, UserFault
from stores.schema import LATENT_CHANNELS, PATCH, RAY_CHANNELS

CHANNELS = LATENT_CHANNELS + RAY_CHANNELS
"""Of each output cell (paper 8.1.1: 22)."""


class AlignFault(UserFault, ValueError):
    """Arrays that EgoExo-Align lacks, or that hold no numbers where it needs them."""


class AlignPrediction(NamedTuple):
    """The 22 output channels, by what they are."""

    latent: Float[Tensor, "b c h w"]
    """Normalised latent of the first ego frame."""
    rays: Float[Tensor, "b 6 h w"]
    """The ray channels, which the latent's loss leaves alone."""


@dataclass(frozen=True)
class AlignGiven:
    """The views' first latents, and the arrays that a model's `reads` name: data, not arguments.

    A view is absent if the first number of its latent is NaN. Raises ShapeFault if channels,
    views or latent grids differ from array to array.
    """

    exo_first: Float[Tensor, "b v c h w"]
    """Normalised latents of the first frames."""
    align_rays: Float[Tensor, "b ..."] | None = None
    """ "b v 6 h w": the first ego frame's rays in each exo camera's frame (paper 3.2)."""
    align_points: Float[Tensor, "b ..."] | None = None
    """ "b v depth h w xy": where points along these rays are in the views, -1 to 1 from edge to
    edge; NaN where a view does not show them."""

    def __post_init__(self) -> None:
        *views, _, h, w = self.exo_first.shape
        expected = {
            "exo_first": (*views, LATENT_CHANNELS, h, w),
            "align_rays": (*views, RAY_CHANNELS, h, w),
            "align_points": (*views, *self._depths(), h, w, 2),
        }
        for name, value in self.arrays().items():
            if tuple(value.shape) != expected[name]:
                raise ShapeFault(
                    "EgoExo-Align is given arrays that do not go together.",
                    where=name,
                    expected=f"{expected[name]}, as exo_first is {tuple(self.exo_first.shape)}",
                    got=tuple(value.shape),
                    fix="Take all arrays of the same clips, views and latent grid from one store.",
                )

    def arrays(self) -> dict[str, Float[Tensor, "b v ..."]]:
        """What is given, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def rays(self) -> Float[Tensor, "b v 6 h w"]:
        """The rays. Raises AlignFault if none are given."""
        return self._needed("align_rays")

    @property
    def points(self) -> Float[Tensor, "b v depth h w xy"]:
        """The points along the rays. Raises AlignFault if none are given."""
        return self._needed("align_points")

    def _needed(self, name: str) -> Any:
        if (value := getattr(self, name)) is not None:
            return value
        raise AlignFault(
            "EgoExo-Align lacks an array that it reads.",
            where=name,
            expected=f"exo_first and {name}",
            got=", ".join(self.arrays()),
            fix="Give it the arrays that `align_reads` of its settings names.",
        )

    def _depths(self) -> list[int]:
        """How many points a ray has, whatever their number: a model says what it wants."""
        return [] if self.align_points is None else list(self.align_points.shape[2:3])


def predict(
    channels_of: Callable[[AlignGiven], Float[Tensor, "b channels h w"]], given: AlignGiven
) -> AlignPrediction:
    """The prediction for each clip, from the views that it has: `channels_of` sees no absent one.

    Raises AlignFault if a view has NaN here and numbers there: nothing is made of half a view.
    """
    if not given.exo_first.is_meta:
        _check_numbers(given)
    arrays = given.arrays()

    def run(*of_views: Tensor) -> Float[Tensor, "b channels h w"]:
        return channels_of(AlignGiven(**dict(zip(arrays, of_views, strict=True))))

    out = by_views(run, tuple(arrays.values()))
    return AlignPrediction(out[:, :LATENT_CHANNELS], out[:, LATENT_CHANNELS:])


def check_patch(patch: int, grid: tuple[int, ...]) -> None:
    """Raises ShapeFault unless the patch divides the latent grid's rows and columns."""
    if any(side % patch for side in grid):
        raise ShapeFault(
            "EgoExo-Align's patch does not divide the latent grid.",
            where="align.patch",
            expected=f"a divisor of {grid[0]} and {grid[1]}",
            got=patch,
            fix=f"Use patch {PATCH} or 1.",
        )


def _check_numbers(given: AlignGiven) -> None:
    """Raises AlignFault unless each view is NaN throughout its latent or not at all."""
    absent = given.exo_first.isnan().flatten(2).all(dim=-1)
    for name, value in given.arrays().items():
        if name == "align_points":  # NaN is a number there: not seen
            continue
        count = value.isnan().flatten(2).sum(dim=-1)
        torn = (count > 0) & ~absent
        if torn.any():
            clip, view = torn.nonzero()[0].tolist()
            raise AlignFault(
                "A view that is there has NaN.",
                where=f"{name}, clip {clip} of the batch, view {view}",
                expected="numbers throughout, or NaN throughout its latent if it is absent",
                got=f"NaN in {int(count[clip, view])} of {value[clip, view].numel()} places",
                fix="Look for damage with `exo2ego store verify`.",
            )
