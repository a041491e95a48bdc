"""Who is measured side by side, and what the rounds say: rates, CPU time, ratios within rounds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from benchmarks.rows import Spent, interleaved


@dataclass(frozen=True)
class Contestant:
    """One reader: what it is called and what one turn of it is."""

    name: str
    turn: Callable[[], object]
    """A call reads `clips` clips in a random order."""
    clips: int
    floor: str
    """Name of the floor that it is compared with: that of as many threads."""
    who: str = ""
    """The project whose reader it is; empty for ours and for floors."""
    version: str = ""


@dataclass
class Contest:
    """All readers, and those that could not be had, with the reason."""

    readers: list[Contestant] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def of(self, who: str) -> list[str]:
        """The ways in which that project's reader takes part."""
        return [reader.name for reader in self.readers if reader.who == who]

    @property
    def others(self) -> list[str]:
        """All readers of other projects."""
        return [reader.name for reader in self.readers if reader.who]

    def hold(self, rounds: int) -> "Outcome":
        """Lets all readers take turns for so many rounds."""
        turns = {reader.name: reader.turn for reader in self.readers}
        return Outcome({reader.name: reader for reader in self.readers}, interleaved(turns, rounds))


@dataclass(frozen=True)
class Outcome:
    """What all turns took."""

    readers: Mapping[str, Contestant]
    spent: Mapping[str, tuple[Spent, ...]]

    def rates(self, name: str) -> list[float]:
        """Clips a second, in each round."""
        return [self.readers[name].clips / each.seconds for each in self.spent[name]]

    def rate(self, name: str) -> float:
        """Median clips a second."""
        return median(self.rates(name))

    def cpu_us(self, name: str) -> float:
        """Median CPU time of a clip, in microseconds."""
        cpu_seconds = median(each.cpu_seconds for each in self.spent[name])
        return 1e6 * cpu_seconds / self.readers[name].clips

    def ratio(self, name: str, *others: str) -> float:
        """Median over the rounds of the ratio within a round: what slows a round slows both.

        Of several others the fastest of each round counts."""
        best = [max(rates) for rates in zip(*map(self.rates, others), strict=True)]
        return median(a / b for a, b in zip(self.rates(name), best, strict=True))

    def told(self, name: str) -> str:
        """What is worth saying of a reader beside its median rate."""
        reader, quarters = self.readers[name], np.percentile(self.rates(name), [25, 75])
        version = f"version {reader.version}, " if reader.version else ""
        return (
            f"{version}{self.ratio(name, reader.floor):.3f} of the floor, "
            f"{self.cpu_us(name):.0f} us CPU a clip, "
            f"middle half {quarters[0]:,.0f} to {quarters[1]:,.0f}"
        )
