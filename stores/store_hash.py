"""The store hash: what names a version, over its recipe and the digests of its clips."""

from collections.abc import Iterable, Mapping
from typing import Any

import blake3
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute
from pydantic import BaseModel

pc: Any = pyarrow.compute  # its functions are made at import: no checker sees them
_DIGEST_LETTERS = 64
_CLIPS_HASHED = 100_000  # a piece of the text that is hashed stays far below Arrow's 2 GiB


def canonical_digest(plain: Any) -> str:
    """blake3 of canonical JSON: sorted keys, no white space, UTF-8."""
    return blake3.blake3(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)).hexdigest()


def store_hash(recipe: BaseModel, clips: Iterable[tuple[str, Mapping[str, str]]]) -> str:
    """blake3 over recipe and (clip id, digests by name); neither order nor container counts."""
    kept = [[clip_id, {k: v for k, v in digests.items() if v}] for clip_id, digests in clips]
    return canonical_digest(
        {"recipe": recipe.model_dump(mode="json"), "clips": sorted(kept, key=_first)}
    )


def digest_rows(table: pa.Table) -> Iterable[tuple[str, dict[str, str]]]:
    """Each clip's id, and by name the digests of its arrays and of its index row (`clip`)."""
    names = [name for name in table.column_names if name.startswith("digest_")]
    columns = [table[name].to_pylist() for name in names]
    short = [name.removeprefix("digest_") for name in names]
    for clip_id, *values in zip(table["clip_id"].to_pylist(), *columns, strict=True):
        yield clip_id, dict(zip(short, values, strict=True))


def table_hash(recipe: BaseModel, table: pa.Table) -> str:
    """The store hash of a manifest, as `store_hash` has it, without a Python object a clip."""
    ids = table["clip_id"]
    if not _is_plain(table):
        return store_hash(recipe, digest_rows(table))
    digest = blake3.blake3(b'{"clips":[', max_threads=blake3.blake3.AUTO)
    for first in range(0, len(ids), _CLIPS_HASHED):
        texts = _clip_texts(table.slice(first, _CLIPS_HASHED))
        digest.update(texts[len(b",") if first == 0 else 0 :])
    recipe_json = orjson.dumps(recipe.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
    return digest.update(b'],"recipe":' + recipe_json + b"}").hexdigest()


def _first(pair: list[Any]) -> str:
    return pair[0]


def _is_plain(table: pa.Table) -> bool:
    """True if the clips are in order, and no text of them is written otherwise in JSON."""
    ids = table["clip_id"].combine_chunks()
    if len(ids) == 0 or "digest_clip" not in table.column_names:
        return False
    names = [name for name in table.column_names if name.startswith("digest_")]
    escaped = pc.match_substring_regex(ids, '["\\\\\\x00-\\x1f]')
    return (
        not pc.any(escaped).as_py()
        and pc.all(pc.less(ids[:-1], ids[1:])).as_py() is not False
        and pc.all(pc.not_equal(table["digest_clip"], "")).as_py()
        and all(pc.max(pc.binary_length(table[name])).as_py() <= _DIGEST_LETTERS for name in names)
    )


def _clip_texts(table: pa.Table) -> memoryview:
    """The clips' part of the canonical JSON: a comma and ["id",{digests}] for each."""
    columns = {
        name.removeprefix("digest_"): table[name].combine_chunks()
        for name in sorted(table.column_names)
        if name.startswith("digest_")
    }
    parts: list[Any] = [',["', table["clip_id"].combine_chunks(), '",{']
    for name, digests in columns.items():
        before, after = f'"{name}":"', '"'
        # `clip` is always there: the others' commas stand on its side of them
        before, after = (before, after + ",") if name < "clip" else (before, after)
        before = "," + before if name > "clip" else before
        has = pc.not_equal(digests, "")
        if pc.all(has).as_py():
            parts += [before, digests, after]
        else:
            parts += [pc.if_else(has, before, ""), digests, pc.if_else(has, after, "")]
    joined = pc.binary_join_element_wise(*parts, "}]", "")
    offsets = np.frombuffer(joined.buffers()[1], np.int32)[joined.offset :]
    return memoryview(joined.buffers()[2])[int(offsets[0]) : int(offsets[len(joined)])]
