"""How long work reports itself: verbs take a `Track`, the shell passes one that draws."""

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
