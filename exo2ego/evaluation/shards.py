"""How the clips of a set are divided among processes that write into one folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stores.errors import UserFault

Item = TypeVar("Item")


class ShardFault(UserFault, ValueError):
    """A share of the work that does not exist."""


@dataclass(frozen=True)
class Shard:
    """One process's share. Raises ShardFault unless 1 <= number <= count."""

    number: int = 1
    """From 1 on."""
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise _no_such_shard(f"{self.number}/{self.count}")

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Every count-th item; the shares of all numbers are all items, each once."""
        return list(items[self.number - 1 :: self.count])


ALL = Shard()
"""The only process."""


def parse_shard(text: str) -> Shard:
    """The share that "2/4" names. Raises ShardFault if it names none."""
    number, slash, count = text.partition("/")
    if slash and number.strip().isdigit() and count.strip().isdigit():
        return Shard(int(number), int(count))
    raise _no_such_shard(text)


def shard_of_environment(environment: Mapping[str, str]) -> Shard:
    """The share of a process that torchrun started (RANK, WORLD_SIZE); else all."""
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return ALL
    return Shard(int(environment["RANK"]) + 1, int(environment["WORLD_SIZE"]))


def _no_such_shard(got: str) -> ShardFault:
    return ShardFault(
        "There is no such share of the clips.",
        where="--shard",
        expected="NUMBER/COUNT with NUMBER from 1 to COUNT, such as 2/4",
        got=got,
        fix="Start COUNT processes, with --shard 1/COUNT, 2/COUNT and so on; or use torchrun.",
    )
