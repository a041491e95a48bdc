"""What a benchmark prints: a number, the bar that it is held against, and medians of rounds."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """One measured number."""

    what: str
    value: float | None
    """None if it was not measured; the note then says why."""
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the bar is met; None if the number has none."""
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.what}: not measured: {self.note}"
        bars = [f">= {self.at_least:g}"] if self.at_least is not None else []
        bars += [f"<= {self.at_most:g}"] if self.at_most is not None else []
        verdict = {True: "met", False: "MISSED", None: ""}[self.is_met]
        bar = f"  [{' and '.join(bars)} {self.unit}: {verdict}]" if bars else ""
        return f"{self.what}: {self.value:.4g} {self.unit}{bar}{'  ' * bool(self.note)}{self.note}"


@dataclass(frozen=True)
class Spent:
    """What one run of a work took."""

    seconds: float
    cpu_seconds: float
    """Of all threads of the process that did it, in the kernel too."""


def interleaved(
    works: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, tuple[Spent, ...]]:
    """What each work took in every round; they take turns, so that a busy machine slows all.

    A work that gives a Spent was done in another process, and says what it took there."""
    spent: dict[str, list[Spent]] = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            told = work()
            here = Spent(time.perf_counter() - began, time.process_time() - began_cpu)
            if round_:  # the first round warms up
                spent[name].append(told if isinstance(told, Spent) else here)
    return {name: tuple(each) for name, each in spent.items()}


def interleaved_seconds(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each work, with the works taking turns."""
    spent = interleaved(works, rounds)
    return {name: median(each.seconds for each in many) for name, many in spent.items()}
