"""Split leakage: captures and participants that two splits share."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stores.index import ClipRow

KINDS = {"capture": "capture_name", "participant": "participant_uid"}
"""What must not be shared -> the column that names it."""


@dataclass(frozen=True)
class Leak:
    """One capture or participant with takes in more than one split."""

    kind: str
    name: str
    takes: Mapping[str, tuple[str, ...]]
    """Take names by split."""


def split_leaks(rows: Iterable[ClipRow]) -> tuple[Leak, ...]:
    """Captures, then participants, whose takes lie in two splits or more; unnamed ones cannot."""
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for row in rows:
        for kind, column in KINDS.items():
            if name := getattr(row, column):
                found.setdefault((kind, name), {}).setdefault(row.split, set()).add(row.take_name)
    return tuple(
        Leak(*owner, {split: tuple(sorted(splits[split])) for split in sorted(splits)})
        for owner, splits in sorted(found.items())
        if len(splits) > 1
    )
