"""ClipRecipe: what a clip is. Part of every clip index and of every store."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stores.errors import UserFault
from stores.schema import ClipShape

_STRIDE_SLACK = 1e-6
"""How far fps / fps_out may be from a whole number, for rates such as 30000/1001."""


class RecipeFault(UserFault, ValueError):
    """A recipe that contradicts itself, or that no clip can follow."""


def _paper_views(data: Mapping[str, Any]) -> int:
    return len(data["view_ids"]) or 4


class ClipRecipe(BaseModel):
    """What a clip is: which frames, how large, through which lens. Part of the store's recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = Field(default=9, gt=0, description="frames a clip (paper 4.1)")
    stride: int = Field(default=4, gt=0, description="source frames from one to the next (4.1)")
    window_step: int = Field(
        default_factory=lambda data: data["stride"] * data["frames"],
        gt=0,
        description="source frames between clip starts. Choice: stride x frames, no overlap",
    )
    fps: float = Field(
        default=30.0, gt=0, description="source frames a second (Ego-Exo4D's aligned videos)"
    )
    view_ids: tuple[str, ...] = Field(
        default=(),
        description="ids of the exo cameras, reference first; none: the first, sorted by id",
    )
    views: int = Field(
        default_factory=_paper_views, gt=0, description="exo views a clip (paper 3.2: 4)"
    )
    min_views: int = Field(
        default_factory=lambda data: data["views"],
        gt=0,
        description="fewest exo views of a clip; those that lack up to `views` are absent",
    )
    hw: tuple[int, int] = Field(default=(256, 256), description="rows and columns of a frame (4.1)")
    exo_fit: Literal["squash", "crop", "pad"] = Field(
        default="squash",
        description="how exo frames meet hw (4.1: resized); or cut, or with black bars",
    )
    exo_lens: Literal["fisheye", "pinhole"] = Field(
        default="fisheye", description="exo frames as recorded, or undistorted to a pinhole"
    )
    ego_lens: Literal["pinhole", "fisheye"] = Field(
        default="pinhole", description="undistorted virtual pinhole, or the raw upright fisheye"
    )
    ego_focal_per_side: float = Field(
        default=150 / 512,
        gt=0,
        description="virtual pinhole's focal length / frame side (Ego-Exo4D: f = 150 at 512)",
    )

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "ClipRecipe":
        if len(set(self.view_ids)) != len(self.view_ids):
            raise ValueError(f"view_ids names a camera twice: {', '.join(self.view_ids)}")
        if self.view_ids and len(self.view_ids) != self.views:
            raise ValueError(f"views is {self.views}, but view_ids names {len(self.view_ids)}")
        if self.min_views > self.views:
            raise ValueError(f"min_views is {self.min_views}, more than views, {self.views}")
        return self

    @classmethod
    def sampled(cls, fps_out: float | None = None, **asked: Any) -> "ClipRecipe":
        """The recipe with `fps_out` frames a second, and what else is asked; None asks nothing.

        3 of 30 source frames a second is stride 10. Raises RecipeFault if the stride would not be
        whole, or if the fields do not go together."""
        given = {name: value for name, value in asked.items() if value is not None}
        if fps_out is not None:
            given = _with_stride(fps_out, given)
        try:
            return cls.model_validate(given)
        except ValidationError as wrong:
            first = wrong.errors()[0]
            raise _fault(
                ".".join(map(str, first["loc"])) or "the recipe's fields together",
                first["msg"].removeprefix("Value error, "),
                first["input"] if first["loc"] else given,
            ) from wrong

    @property
    def shape(self) -> ClipShape:
        """Shape of every clip of this recipe."""
        return ClipShape(views=self.views, frames=self.frames, hw=self.hw)

    @property
    def span(self) -> int:
        """Source frames from a clip's first to its last, both counted."""
        return (self.frames - 1) * self.stride + 1


def _with_stride(fps_out: float, given: dict[str, Any]) -> dict[str, Any]:
    """The fields with the stride that samples `fps_out` frames a second."""
    if "stride" in given:
        raise _fault("stride, fps", "one of the two", f"stride {given['stride']}, fps {fps_out:g}")
    source = float(given.get("fps", ClipRecipe.model_fields["fps"].default))
    ratio = source / fps_out if fps_out > 0 else 0.0
    stride = round(ratio)
    if stride < 1 or abs(ratio - stride) > _STRIDE_SLACK:
        rates = ", ".join(f"{source / n:g}" for n in (1, 2, 3, 4, 5, 6, 10, 15, 30))
        raise _fault("fps", f"{source:g} divided by a whole number: {rates}, ...", f"{fps_out:g}")
    return given | {"stride": stride}


def _fault(where: str, expected: object, got: object) -> RecipeFault:
    return RecipeFault(
        "No clips can be cut by this recipe.",
        where=where,
        expected=expected,
        got=got,
        fix="Change the option; `exo2ego ingest --help` names them all.",
    )
