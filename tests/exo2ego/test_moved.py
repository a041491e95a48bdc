"""Samples that are moved by a frame: early ones are early, late ones late, and no frame is new."""

import torch

from benchmarks.mini.timing import SHIFTS_FRAMES, moved


def test_frames_are_moved_by_one_and_nothing_else():
    made, true = (torch.arange(9, dtype=torch.uint8)[:, None, None, None] for _ in range(2))
    made, true = made.expand(9, 2, 5, 3), true.expand(9, 2, 5, 3)
    for late in SHIFTS_FRAMES:
        one, other = (frames[:, 0, 0, 0].int() for frames in moved(made, true, late))
        assert len(one) == 8
        assert (other - one == late).all()  # at each moment it shows what was so much before
