"""Memory for batches that are read: aligned, and used again once nobody holds the batch."""

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np

_ALIGNMENT = 4096
"""Of a page. The kernel copies to addresses off a cache line at half the speed, and malloc gives
large blocks 16 bytes behind a page's beginning."""
KEPT = 3
"""Blocks of one shape that wait to be used again: one batch in use, one ready, one on its way."""
_SHAPES = 4
Allocate = Callable[[int], np.ndarray]
"""Gives so many bytes, uint8."""


class BatchMemory:
    """Gives out arrays; their memory comes back by itself, so that no page is made twice.

    Safe to use from many threads. It keeps `kept` blocks of each of the last four shapes at most.
    `allocate` is where they come from: for example memory that a GPU can copy from by itself.
    """

    def __init__(self, *, kept: int = KEPT, allocate: Allocate | None = None) -> None:
        self._kept, self._allocate = kept, allocate or _pageable
        self._free: OrderedDict[tuple[tuple[int, ...], np.dtype], deque[_Memory]] = OrderedDict()

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of that shape with any numbers in it, for its holder alone."""
        free = self._free.get((shape, dtype))
        if free is None:
            free = self._free.setdefault((shape, dtype), deque(maxlen=self._kept))
            while len(self._free) > _SHAPES:
                self._free.popitem(last=False)
        try:
            memory = free.pop()
        except IndexError:
            memory = _aligned(shape, dtype, self._allocate)
        return np.asarray(_Lease(memory, free))


class _Lease:
    """Owner of one array's memory: arrays, views and tensors over it all keep it alive."""

    __slots__ = ("__array_interface__", "_free", "_memory")

    def __init__(self, memory: "_Memory", free: "deque[_Memory]"):
        self._memory, self._free = memory, free
        self.__array_interface__ = memory[1]

    def __del__(self) -> None:
        self._free.append(self._memory)


_Memory = tuple[np.ndarray, dict[str, Any]]
"""An array and its `__array_interface__`, which takes longer to make than to read by."""


def _pageable(size: int) -> np.ndarray:
    return np.empty(size, dtype=np.uint8)


def _aligned(shape: tuple[int, ...], dtype: np.dtype, allocate: Allocate) -> _Memory:
    size = math.prod(shape) * dtype.itemsize
    spare = allocate(size + _ALIGNMENT)
    first = -spare.ctypes.data % _ALIGNMENT
    array = spare[first : first + size].view(dtype).reshape(shape)
    return array, array.__array_interface__
