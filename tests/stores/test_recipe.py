"""Claims about what a clip is: stores/recipe.py."""

from typing import Any

import pytest
from pydantic import ValidationError

from stores.recipe import ClipRecipe, RecipeFault


def test_windows_follow_each_other_without_overlap_unless_told() -> None:
    assert ClipRecipe().window_step == 36
    assert ClipRecipe(stride=10).window_step == 90
    assert ClipRecipe(frames=5, stride=2, window_step=7).window_step == 7


@pytest.mark.parametrize(
    ("fps_out", "stride", "span"), [(3.0, 10, 81), (7.5, 4, 33), (30.0, 1, 9), (None, 4, 33)]
)
def test_three_frames_a_second_of_thirty_are_every_tenth(
    fps_out: float | None, stride: int, span: int
) -> None:
    recipe = ClipRecipe.sampled(fps_out)
    assert (recipe.fps, recipe.stride, recipe.span) == (30.0, stride, span)
    assert recipe.window_step == 9 * stride


def test_other_fields_are_taken_and_none_asks_for_nothing() -> None:
    recipe = ClipRecipe.sampled(6.0, fps=60.0, frames=5, window_step=None, views=3)
    assert (recipe.stride, recipe.window_step, recipe.views) == (10, 50, 3)
    assert ClipRecipe.sampled(fps=30000 / 1001, fps_out=7.5 * 1000 / 1001).stride == 4


def test_named_views_are_the_views_and_fewer_are_allowed_if_asked() -> None:
    recipe = ClipRecipe(view_ids=("cam01", "cam03", "cam04"))
    assert (recipe.views, recipe.min_views) == (3, 3)
    assert ClipRecipe(min_views=2).views == 4


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"fps_out": 8.0}, "30 divided by a whole number"),
        ({"fps_out": 60.0}, "30 divided by a whole number"),
        ({"fps_out": 0.0}, "30 divided by a whole number"),
        ({"fps_out": 3.0, "stride": 4}, "one of the two"),
        ({"view_ids": ("cam01", "cam01")}, "names a camera twice: cam01, cam01"),
        ({"view_ids": ("cam01",), "views": 4}, "views is 4, but view_ids names 1"),
        ({"min_views": 5}, "min_views is 5, more than views, 4"),
        ({"min_views": 0}, "greater than 0"),
        ({"frames": 0}, "greater than 0"),
        ({"exo_fit": "stretch"}, "exo_fit"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_recipe_that_no_clip_can_follow_is_told(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeFault, match=told):
        ClipRecipe.sampled(**asked)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="stride_of_the_future"):
        ClipRecipe.model_validate({"stride_of_the_future": 3})
