"""Claims about clip shapes: the only latent arithmetic, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.errors import ShapeFault
from stores.schema import ARRAYS, DERIVED, ClipShape

PAPER = ClipShape(views=4, frames=9, hw=(256, 256))


def test_the_papers_clip_has_3072_tokens_and_480_kib_of_latents() -> None:
    latent = PAPER.latent()
    assert (latent.channels, latent.frames, latent.hw) == (16, 3, (32, 32))
    rows, columns = latent.token_hw
    assert PAPER.views * latent.frames * rows * columns == 3072
    exo, ego = (ARRAYS[name].row_shape(PAPER) for name in ("exo_latents", "ego_latents"))
    assert (exo, ego) == ((3, 4, 16, 32, 32), (3, 16, 32, 32))


@given(k=st.integers(0, 20), rows=st.integers(1, 20), columns=st.integers(1, 20))
def test_every_shape_that_fits_divides_evenly(k: int, rows: int, columns: int) -> None:
    latent = ClipShape(views=2, frames=4 * k + 1, hw=(16 * rows, 16 * columns)).latent()
    assert (latent.frames, latent.hw) == (k + 1, (2 * rows, 2 * columns))
    assert latent.token_hw == (rows, columns)


@given(frames=st.integers(-5, 100).filter(lambda frames: frames < 1 or frames % 4 != 1))
def test_other_frame_counts_are_refused_with_two_that_fit(frames: int) -> None:
    with pytest.raises(ShapeFault) as fault:
        ClipShape(views=1, frames=frames, hw=(16, 16))
    for word in fault.value.fix.removeprefix("Use ").removesuffix(" frames.").split(" or "):
        ClipShape(views=1, frames=int(word), hw=(16, 16))


@pytest.mark.parametrize("hw", [(255, 256), (256, 8), (0, 16), (-16, 16)])
def test_sizes_that_do_not_fit_are_refused(hw: tuple[int, int]) -> None:
    with pytest.raises(ShapeFault, match="multiples of 16"):
        ClipShape(views=1, frames=1, hw=hw)


@pytest.mark.parametrize("spec", [*ARRAYS.values(), *DERIVED["first_frames"].values()])
def test_pieces_tile_a_row_and_hold_whole_steps_of_its_outermost_axis(spec) -> None:
    row, piece = spec.row_shape(PAPER), spec.chunk_shape(PAPER)
    assert piece[1:] == row[1:]
    assert piece[0] == (1 if spec.frames_apart else row[0])


def test_no_array_uses_an_axis_that_the_legend_lacks() -> None:
    for name, spec in ARRAYS.items():
        assert spec.name == name
        assert set(spec.axes.split()) <= set(PAPER.sizes())
