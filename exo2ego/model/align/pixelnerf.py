"""Pixel-NeRF (paper Table 3): points along the ego rays, with what the exo views show there."""

from typing import Literal

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from exo2ego.geometry.clip_points import align_depths
from exo2ego.model.align.prediction import CHANNELS, AlignGiven, AlignPrediction, predict
from stores.errors import ShapeFault
from stores.schema import LATENT_CHANNELS, RAY_CHANNELS

KERNEL = 3
"""Of the encoder's convolutions."""


class PixelNerfSettings(BaseModel):
    """Size of Pixel-NeRF. Choice: the paper gives none; the residual blocks are pixelNeRF's.

    Its encoder is trained with it, on latents: a pretrained one for pictures has no place here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["pixelnerf"]
    width: int = Field(default=256, gt=0, description="channels of features and points; not given")
    encoder_blocks: int = Field(
        default=4, gt=0, description="residual convolutions over a view's latent; not given"
    )
    view_blocks: int = Field(
        default=3, gt=0, description="residual blocks before the mean over views (pixelNeRF: 3)"
    )
    point_blocks: int = Field(
        default=2, gt=0, description="residual blocks after the mean over views (pixelNeRF: 2)"
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """What the model is given beside the views' first latents."""
        return ("align_rays", "align_points")


class PixelNerf(nn.Module):
    """First ego frame's latent: every cell by itself, rendered along its ray.

    A point knows, of each view that shows it, the feature there, the ray in the view's frame and
    its nearness; after the mean over these views it has a density and the 22 channels.
    Choice: a cell's channels are volume-rendered over its points as a colour is; what no point
    stops, the last one does, so a cell's weights add up to 1.
    """

    depths: Float[Tensor, " depth"]
    """Metres from the ego camera to the points of a ray."""

    def __init__(self, settings: PixelNerfSettings):
        super().__init__()
        width = settings.width
        self.encoder = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, width, KERNEL, padding=KERNEL // 2),
            *(Residual(*_convolutions(width)) for _ in range(settings.encoder_blocks)),
        )
        self.embed = nn.Linear(RAY_CHANNELS + 1, width)
        self.of_view = _blocks(settings.view_blocks, width)
        self.of_point = _blocks(settings.point_blocks, width)
        self.read_out = nn.Sequential(nn.SiLU(), nn.Linear(width, CHANNELS + 1))
        self.register_buffer("depths", align_depths().float(), persistent=False)

    def forward(self, given: AlignGiven) -> AlignPrediction:
        """Latent (and rays) of the first ego frame, for any number of views.

        Raises ShapeFault unless there are as many points a ray as `align_depths`, AlignFault
        without rays or points.
        """
        self._check_depths(given.points)
        return predict(self._channels, given)

    def _channels(self, given: AlignGiven) -> Float[Tensor, "b channels h w"]:
        """Latent and ray channels of the first ego frame, of clips that all have these views."""
        found, seen = self._found(given)
        count = reduce(seen, "b v depth h w -> b depth h w 1", "sum").clamp(min=1)
        points = torch.where(rearrange(seen, "... -> ... 1"), self.of_view(found), 0).sum(dim=1)
        out = self.read_out(self.of_point(points / count)).float()
        weights = render_weights(functional.softplus(out[..., -1]), self.depths)
        cells = (rearrange(weights, "b depth h w -> b depth h w 1") * out[..., :-1]).sum(dim=1)
        return rearrange(cells, "b h w channels -> b channels h w")

    def _found(
        self, given: AlignGiven
    ) -> tuple[Float[Tensor, "b v depth h w d"], Bool[Tensor, "b v depth h w"]]:
        """What each view has for each point, and whether it shows it."""
        views = rearrange(given.exo_first, "b v c h w -> (b v) c h w")
        places = rearrange(given.points, "b v depth h w xy -> (b v) (depth h) w xy")
        seen = ~given.points.isnan().any(dim=-1)
        encoded = self.encoder(views)
        # bf16 would round places to 1/16 of a cell, and more
        features = functional.grid_sample(
            encoded.float(), places.nan_to_num(), padding_mode="border", align_corners=False
        ).to(encoded.dtype)
        b, _, depth, h, _ = seen.shape
        features = rearrange(features, "(b v) d (depth h) w -> b v depth h w d", b=b, h=h)
        rays = repeat(given.rays, "b v rays h w -> b v depth h w rays", depth=depth)
        nearness = rearrange(self.depths[0] / self.depths, "depth -> depth 1 1 1")
        nearness = nearness.expand(*seen.shape, 1)
        return features + self.embed(torch.cat([rays, nearness], dim=-1)), seen

    def _check_depths(self, points: Float[Tensor, "b v depth h w xy"]) -> None:
        if points.shape[2] != len(self.depths):
            raise ShapeFault(
                "These points are not at the distances that Pixel-NeRF renders over.",
                where="align_points",
                expected=f"{len(self.depths)} points a ray",
                got=points.shape[2],
                fix="Make them with clip_align_points of exo2ego.geometry.clip_points.",
            )


class Residual(nn.Sequential):
    """What the layers give, added to what comes in."""

    def forward(self, input: Tensor) -> Tensor:
        """As large as what comes in."""
        return input + super().forward(input)


def render_weights(
    density: Float[Tensor, "b depth h w"], depths: Float[Tensor, " depth"]
) -> Float[Tensor, "b depth h w"]:
    """Share of each point in its cell: what gets past the nearer ones and stops there.

    Density is per metre; a point stands for the stretch up to the next, the last for all beyond.
    """
    stretches = rearrange(depths.diff(), "stretch -> stretch 1 1")
    passing = (-(density[:, :-1] * stretches).cumsum(dim=1)).exp()
    reaching = torch.cat([torch.ones_like(density[:, :1]), passing], dim=1)
    leaving = torch.cat([passing, torch.zeros_like(density[:, :1])], dim=1)
    return reaching - leaving


def _convolutions(width: int) -> list[nn.Module]:
    """Two convolutions, each of what a rectifier leaves."""
    made = [nn.Conv2d(width, width, KERNEL, padding=KERNEL // 2) for _ in range(2)]
    return [layer for convolution in made for layer in (nn.SiLU(), convolution)]


def _blocks(count: int, width: int) -> nn.Sequential:
    """Residual blocks of two layers, as pixelNeRF's."""
    layers = [
        Residual(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        for _ in range(count)
    ]
    return nn.Sequential(*layers)
