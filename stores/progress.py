"""How long work reports itself: verbs take a `Track`, the shell passes one that draws."""

import time
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")


@runtime_checkable
class Track(Protocol):
    """Passes items through, and shows count, rate and time left while it does."""

    def __call__(
        self, items: Iterable[Item], /, *, total: int, what: str, unit: str
    ) -> Iterator[Item]: ...


def silent(items: Iterable[Item], /, *, total: int, what: str, unit: str) -> Iterator[Item]:
    """The items, unreported: what library callers and tests use."""
    yield from items


def drawn(items: Iterable[Item], /, *, total: int, what: str, unit: str) -> Iterator[Item]:
    """The items, with a line on stderr that shows count, rate and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    clock = (TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"))
    began = time.perf_counter()
    with Progress(
        *columns, *clock, TimeRemainingColumn(), console=Console(stderr=True)
    ) as progress:
        task = progress.add_task(what, total=total, rate="")
        for done, item in enumerate(items, start=1):
            yield item
            seconds = (time.perf_counter() - began) / done
            each = f"{1 / seconds:.1f} {unit}/s" if seconds < 1 else f"{seconds:.1f} s for each"
            progress.update(task, advance=1, rate=each)
