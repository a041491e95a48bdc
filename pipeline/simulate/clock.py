"""The clocks of a take: frames of the glasses, the 1 kHz trajectory, and timesync.csv's rows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from pipeline.simulate.traits import TakePlan

FRAME_US = 33_328
"""From one frame of the glasses to the next, as in the real calibration files."""
ROW_US = 1_000
"""From one row of the trajectory to the next."""
MARGIN_ROWS = 100
"""Rows of the trajectory before the first frame and after the last."""
ROWS_AFTER = 12
"""Rows of timesync.csv after the take's last."""


@dataclass(frozen=True)
class TakeClock:
    """Times of one take. A frame shows the instant of the trajectory row nearest to it."""

    first_us: int
    frames: int

    @property
    def frame_us(self) -> Int64[np.ndarray, "f"]:
        """Device time of every frame."""
        return self.first_us + FRAME_US * np.arange(self.frames)

    @property
    def nearest_rows(self) -> Int64[np.ndarray, "f"]:
        """Row of the trajectory that is nearest to each frame."""
        return MARGIN_ROWS + (FRAME_US * np.arange(self.frames) + ROW_US // 2) // ROW_US

    @property
    def row_us(self) -> Int64[np.ndarray, "r"]:
        """Device time of every trajectory row."""
        rows = int(self.nearest_rows[-1]) + 1 + MARGIN_ROWS
        return self.first_us + ROW_US * (np.arange(rows) - MARGIN_ROWS)

    @property
    def row_seconds(self) -> Float64[np.ndarray, "r"]:
        """Time since the first frame of every trajectory row."""
        return (self.row_us - self.first_us) * 1e-6

    @property
    def scene_seconds(self) -> Float64[np.ndarray, "f"]:
        """The instant that each frame shows."""
        return self.row_seconds[self.nearest_rows]


def take_clock(plan: TakePlan) -> TakeClock:
    """The clock of a take."""
    return TakeClock(plan.first_us, plan.frames)
