"""rejects.json of a store: clips that could not be encoded, and why."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import orjson

from stores.atomic import write_whole
from stores.errors import StoreFault
from stores.index import ClipRow
from stores.place import Place

NAME = "rejects.json"


@dataclass(frozen=True)
class FailedClips:
    """Clips of one take that could not be encoded for one reason."""

    take_name: str
    clip_ids: tuple[str, ...]
    reason: str
    attempts: int
    """How often they were tried, over all runs."""


def read_rejects(store: Place) -> list[FailedClips]:
    """The clips in quarantine. Raises StoreFault if the file is damaged."""
    path = store / NAME
    if not path.exists():
        return []
    try:
        plain = orjson.loads(path.read_bytes())
        return [FailedClips(**{**one, "clip_ids": tuple(one["clip_ids"])}) for one in plain]
    except (orjson.JSONDecodeError, TypeError, KeyError) as foreign:
        raise StoreFault(
            "The list of quarantined clips cannot be read.",
            where=path,
            expected="a JSON list, as an encode writes it",
            got=str(foreign),
            fix="Remove the file; it only counts attempts, and is written again.",
        ) from foreign


def group_failures(
    clips: Iterable[ClipRow], reasons: Mapping[str, str], attempts: Mapping[str, int]
) -> list[FailedClips]:
    """The failed ones among the clips, together where take, reason and attempts are the same."""
    groups: dict[tuple[str, str, int], list[str]] = {}
    for clip in clips:
        if clip.clip_id in reasons:
            key = (clip.take_name, reasons[clip.clip_id], attempts[clip.clip_id])
            groups.setdefault(key, []).append(clip.clip_id)
    return [
        FailedClips(take_name, tuple(clip_ids), reason, tried)
        for (take_name, reason, tried), clip_ids in groups.items()
    ]


def write_rejects(store: Place, failed: Iterable[FailedClips]) -> None:
    """Replaces the list; without failures there is no file."""
    plain = [asdict(group) for group in failed]
    if plain:
        write_whole(store / NAME, orjson.dumps(plain, option=orjson.OPT_INDENT_2))
    else:
        (store / NAME).unlink(missing_ok=True)
