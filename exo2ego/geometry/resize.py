"""A lens for frames of another size: what is the same for all lenses with fx, fy, cx, cy."""

from dataclasses import replace
from typing import Any, TypeVar

L = TypeVar("L")


def squashed(lens: L, hw: tuple[int, int]) -> L:
    """The same lens for frames squashed to `hw`: focal lengths and centre scaled per axis.

    Centres at +0.5 make this a plain product.
    """
    of: Any = lens
    by_y, by_x = hw[0] / of.hw[0], hw[1] / of.hw[1]
    return replace(of, fx=of.fx * by_x, fy=of.fy * by_y, cx=of.cx * by_x, cy=of.cy * by_y, hw=hw)
