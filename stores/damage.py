"""How damage is told: the fault that names array, shard and clips."""

from collections.abc import Iterable, Sequence

from stores.arrays import ArrayReader, RowDamage
from stores.errors import StoreFault


def damaged_rows(
    reader: ArrayReader, damage: RowDamage, clip_ids: Sequence[str], rows: Sequence[int]
) -> StoreFault:
    """The fault that names array, shard and those of the clips that the damage hits."""
    hit = [
        clip_id
        for clip_id, row in zip(clip_ids, rows, strict=True)
        if (row == damage.row if damage.row is not None else reader.shard_of(row) == damage.shard)
    ]
    return StoreFault(
        f"{reader.spec.name} of {name_some(hit)} cannot be read: {damage.reason}.",
        where=f"shard {damage.shard}, {reader.file_of(damage.shard)}",
        expected="the bytes that were written",
        got=damage.reason,
        fix="`exo2ego store verify` lists all that is damaged, `store repair` makes it again.",
    )


def name_some(clip_ids: Iterable[str], most: int = 5) -> str:
    """The first few ids, and how many more there are."""
    ids = list(clip_ids)
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more
