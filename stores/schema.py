"""The table of cached arrays, the axis legend, and the only latent-shape arithmetic.

Axes, upper case on the pixel grid and lower case on the latent grid:
`v` exo view, `T H W` frames and pixels, `c t h w` latent channels, frames, rows, columns,
`6` Plücker channels (moment xyz, direction xyz), `3` red, green, blue.
"""

from dataclasses import dataclass

from stores.errors import ShapeFault

VAE_FRAME_STRIDE = 4
"""Source frames per latent frame after the first (paper 8.1.2, Table 8: VAE stride (4, 8, 8))."""
VAE_PIXEL_STRIDE = 8
"""Pixels per latent cell, both ways (paper 8.1.2, Table 8)."""
PATCH = 2
"""Latent cells per transformer token, both ways (paper Table 8: patch size (1, 2, 2))."""
PATCH_3D = (1, PATCH, PATCH)
"""Latent frames, rows and columns per token."""
LATENT_CHANNELS = 16
"""Channels of the Wan2.1 VAE (paper 8.1.1: 16 correspond to latent VAE features)."""
POSE_NUMBERS = 12
"""Of a rotation and a translation in metres, row by row."""
RAY_CHANNELS = 6
"""Moment (xyz, metres) and unit direction (xyz) of a Plücker ray (paper 3.4.2)."""


@dataclass(frozen=True)
class LatentShape:
    """Shape of one video's latents, and of the token grid that the transformer sees."""

    channels: int
    frames: int
    hw: tuple[int, int]

    @property
    def token_hw(self) -> tuple[int, int]:
        """Rows and columns of the token grid."""
        return self.hw[0] // PATCH, self.hw[1] // PATCH


@dataclass(frozen=True)
class ClipShape:
    """Shape of one clip: exo views, frames, and rows and columns of pixels.

    Raises ShapeFault unless frames = 4k + 1 and both sizes are divisible by 16.
    """

    views: int
    frames: int
    hw: tuple[int, int]

    def __post_init__(self) -> None:
        if self.frames < 1 or (self.frames - 1) % VAE_FRAME_STRIDE:
            below = max(1, self.frames - (self.frames - 1) % VAE_FRAME_STRIDE)
            raise ShapeFault(
                "This number of frames does not fit the VAE.",
                where="frames",
                expected=f"{VAE_FRAME_STRIDE}k + 1 frames: 1, 5, 9, 13, ...",
                got=self.frames,
                fix=f"Use {below} or {below + VAE_FRAME_STRIDE} frames.",
            )
        cell = VAE_PIXEL_STRIDE * PATCH
        if any(side < cell or side % cell for side in self.hw):
            raise ShapeFault(
                "This frame size does not fit the VAE and the transformer's patches.",
                where="height, width",
                expected=f"multiples of {cell}",
                got=self.hw,
                fix=f"Round each side to a multiple of {cell}.",
            )

    def latent(self) -> LatentShape:
        """Shape of one view's latents: t = 1 + (T - 1) / 4, h = H / 8, w = W / 8."""
        return LatentShape(
            channels=LATENT_CHANNELS,
            frames=1 + (self.frames - 1) // VAE_FRAME_STRIDE,
            hw=(self.hw[0] // VAE_PIXEL_STRIDE, self.hw[1] // VAE_PIXEL_STRIDE),
        )

    def sizes(self) -> dict[str, int]:
        """Length of every axis of the legend."""
        latent = self.latent()
        return {
            "v": self.views,
            "T": self.frames,
            "H": self.hw[0],
            "W": self.hw[1],
            "c": latent.channels,
            "t": latent.frames,
            "h": latent.hw[0],
            "w": latent.hw[1],
            "6": RAY_CHANNELS,
            "3": 3,
            "pose": POSE_NUMBERS,
            "xy": 2,
        }


@dataclass(frozen=True)
class ArraySpec:
    """One cached array: a row a clip, its axes, how it is cut and packed."""

    name: str
    axes: str
    """Axes of one row, space separated, outermost first."""
    dtype: str
    meaning: str
    frames_apart: bool
    """True if each step of the outermost axis is a chunk of its own, readable without the rest."""
    compressed: bool
    """True if chunks go through the blosc codec; latents do not shrink (docs/decisions.md)."""
    every_clip: bool = True
    """False if a store keeps the array for some splits only."""
    of_ego_video: bool = False
    """True if a clip whose ego camera was not filmed has no such array."""

    def row_shape(self, clip: ClipShape) -> tuple[int, ...]:
        """Shape of one clip's row."""
        sizes = clip.sizes()
        return tuple(sizes[axis] for axis in self.axes.split())

    def stream_axes(self, *, first_frame: bool = False) -> tuple[list[str], list[str]]:
        """Axes of a row as it is stored, and as a model takes it: time stands behind channels.

        With `first_frame`, those of step 0 of the outermost axis."""
        stored = self.axes.split()[1:] if first_frame else self.axes.split()
        taken = [axis for axis in stored if axis != "t"]
        if "t" in stored:
            taken.insert(taken.index("c") + 1, "t")
        return stored, taken

    def chunk_shape(self, clip: ClipShape) -> tuple[int, ...]:
        """Shape of the smallest piece that can be read alone."""
        row = self.row_shape(clip)
        return (1, *row[1:]) if self.frames_apart else row


ARRAYS: dict[str, ArraySpec] = {
    spec.name: spec
    for spec in (
        ArraySpec(
            "exo_latents",
            "t v c h w",
            "float16",
            "normalised latents of the exo views, NaN if absent; frame 0 of all views is one chunk",
            frames_apart=True,
            compressed=False,
        ),
        ArraySpec(
            "ego_latents",
            "t c h w",
            "float16",
            "normalised latents of the ego video",
            frames_apart=True,
            compressed=False,
            of_ego_video=True,
        ),
        ArraySpec(
            "align_rays",
            "v 6 h w",
            "float16",
            "first ego frame's rays in each exo camera's frame, on the latent grid; NaN if absent",
            frames_apart=False,
            compressed=True,
        ),
        ArraySpec(
            "ego_rays",
            "T 6 H W",
            "float16",
            "rays of every ego frame in the reference exo camera's frame, on the pixel grid",
            frames_apart=False,
            compressed=True,
        ),
        ArraySpec(
            "ego_frames",
            "T H W 3",
            "uint8",
            "the true ego video, for the splits that are evaluated",
            frames_apart=False,
            compressed=True,
            every_clip=False,
            of_ego_video=True,
        ),
        ArraySpec(
            "exo_frames",
            "v T H W 3",
            "uint8",
            "the exo videos as the model saw them, black if absent, for splits that are evaluated",
            frames_apart=False,
            compressed=True,
            every_clip=False,
        ),
    )
}
CAMERA_ARRAYS: dict[str, ArraySpec] = {
    spec.name: spec
    for spec in (
        ArraySpec(
            "ego_poses",
            "T pose",
            "float32",
            "pose of every ego frame in the reference exo camera's frame: [R | t], row by row",
            frames_apart=False,
            compressed=False,
        ),
        ArraySpec(
            "ego_motion_rays",
            "T 6 H W",
            "float16",
            "rays of every ego frame in the first ego frame's own camera frame, on the pixel grid",
            frames_apart=False,
            compressed=False,
        ),
        ArraySpec(
            "align_points",
            "v depth h w xy",
            "float32",
            "where points along the first ego frame's rays are in each exo view, -1 to 1 from edge "
            "to edge; NaN where the view does not show them",
            frames_apart=False,
            compressed=False,
        ),
    )
}
"""Arrays that no store keeps: they are made of a clip's cameras whenever they are read."""
DERIVED: dict[str, dict[str, ArraySpec]] = {
    "first_frames": {
        "first_latent": ArraySpec(
            "first_latent",
            "c h w",
            "float16",
            "normalised latent of the first ego frame, as a model predicts it",
            frames_apart=False,
            compressed=False,
        ),
        "condition": ArraySpec(
            "condition",
            "t c h w",
            "float16",
            "latents of the video that starts with the predicted frame, as the generator sees it",
            frames_apart=True,
            compressed=False,
        ),
    },
}
"""Groups of arrays that a model makes out of a store, by name."""
