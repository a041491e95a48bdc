"""Scores a frame a row, as Parquet: for notebooks, and for whoever averages in another way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from exo2ego.evaluation.measures import MEASURES, Measured
from stores.atomic import whole_file
from stores.reading import Store

_ABOUT = b"exo2ego"
_WORDS = ("clip_id", "take_name", "category", "split")
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _WORDS),
        ("frame", pa.int32()),
        ("source_frame", pa.int32()),
        *((name, pa.float64()) for name in MEASURES),
    ]
)
"""`frame` counts from 0 in the clip, `source_frame` in the take; what is not measured is null. A
clip's measures stand in the row of its frame 0 alone, so that a column's mean is over clips."""


def write_table(
    path: Path, store: Store, measured: Mapping[str, Measured], provenance: dict[str, Any]
) -> None:
    """Writes the table, whole or not at all, with the provenance in its metadata."""
    rows = [row for clip_id, of_clip in measured.items() for row in _rows(store, clip_id, of_clip)]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    table = table.replace_schema_metadata({_ABOUT: orjson.dumps(provenance)})
    with whole_file(path) as file:
        pq.write_table(table, file)


def table_provenance(path: Path) -> dict[str, Any]:
    """What a table says of its origin."""
    return orjson.loads((pq.read_schema(path).metadata or {})[_ABOUT])


def _rows(store: Store, clip_id: str, measured: Measured) -> list[dict[str, Any]]:
    row = store.row(clip_id)
    words = {name: getattr(row, name) for name in _WORDS}
    columns = {name: values.tolist() for name, values in measured.frames.items()}
    rows: list[dict[str, Any]] = [
        words
        | {"frame": number, "source_frame": source}
        | {name: values[number] for name, values in columns.items()}
        for number, source in enumerate(row.frames)
    ]
    rows[0] |= measured.clip
    return rows
