"""Claims about memory that is used again: never while anybody can still see it."""

import numpy as np
import torch

from stores.batch_memory import BatchMemory

SHAPE, DTYPE = (3, 5, 7), np.dtype("<f2")


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_comes_back_once_the_array_is_gone() -> None:
    memory = BatchMemory()
    first = address(memory.array(SHAPE, DTYPE))
    array = memory.array(SHAPE, DTYPE)
    assert (address(array), array.shape, array.dtype) == (first, SHAPE, DTYPE)


def test_memory_that_a_tensor_of_a_view_still_shows_is_not_given_out_again() -> None:
    memory = BatchMemory()
    seen = torch.from_numpy(memory.array(SHAPE, DTYPE)[1:, 2].view(np.int16))
    seen.fill_(11)
    for _ in range(3):
        memory.array(SHAPE, DTYPE).view(np.int16).fill(22)
    assert (seen == 11).all()


def test_memory_is_not_given_out_twice_at_once() -> None:
    memory = BatchMemory()
    held = [memory.array(SHAPE, DTYPE) for _ in range(9)]
    assert len({address(array) for array in held}) == 9


def test_arrays_begin_at_a_page() -> None:
    memory = BatchMemory()
    held = [memory.array((size, 3), DTYPE) for size in (1, 100, 10_000)]
    assert all(address(array) % 4096 == 0 and array.flags.writeable for array in held)
