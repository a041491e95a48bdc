"""What a benchmark prints: a number, the bar that it is held against, and medians of rounds."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """One measured number."""

    what: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is met; None if the number has none."""
        if self.at_least is None and self.at_most is None:
            return None
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    def __str__(self) -> str:
        bars = [f">= {self.at_least:g}"] if self.at_least is not None else []
        bars += [f"<= {self.at_most:g}"] if self.at_most is not None else []
        verdict = {True: "met", False: "MISSED", None: ""}[self.is_met]
        bar = f"  [{' and '.join(bars)} {self.unit}: {verdict}]" if bars else ""
        return f"{self.what}: {self.value:.4g} {self.unit}{bar}{'  ' * bool(self.note)}{self.note}"


def interleaved_seconds(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each work; they take turns, so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if round_:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return {name: median(spans) for name, spans in seconds.items()}
