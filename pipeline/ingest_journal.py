"""Takes that an ingest has finished, kept beside the index to come until all of them are."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import blake3
import orjson
import pyarrow as pa

from pipeline.dataset import Dataset, TakeEntry
from pipeline.rejects import Reject
from stores.atomic import PARTIAL, remove_partials, write_whole
from stores.index import INDEX_FORMAT, ROW_SCHEMA, ClipRow, TakeTable, take_table
from stores.lock import write_lock

JOURNAL_FORMAT = 1
"""Version of the files below; a journal of another one is begun anew."""
_ABOUT, _ENDING = "exo2ego", ".arrow"


@dataclass(frozen=True, eq=False)
class FinishedTake:
    """What came of one take: its clips, and what was left out of it."""

    clips: TakeTable | None
    """None if the take gave no clip."""
    rejects: tuple[Reject, ...]
    notes: Mapping[str, Any]
    """What else the report is to say of the take, as plain JSON."""


class TakeJournal:
    """A folder with a file for each finished take; a killed ingest goes on from it.

    It answers for one set of settings: another recipe, root, list or version of the software
    empties it. A take whose files have another size or time is not finished any more."""

    def __init__(self, folder: Path):
        self.folder = folder

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Takes over what is there for these settings, and removes what is for others."""
        about = {"journal": JOURNAL_FORMAT, "index": INDEX_FORMAT, "software": version("exo2ego")}
        body = orjson.dumps({**about, **settings}, option=orjson.OPT_SORT_KEYS)
        remove_partials(self.folder)
        path = self.folder / "about.json"
        if path.exists() and path.read_bytes() == body:
            return
        for stale in self.folder.glob("*" + _ENDING):
            stale.unlink()
        write_whole(path, body)

    def has(self, key: str, stamp: str) -> bool:
        """True if the take is finished and its inputs are what they were then."""
        try:
            with pa.OSFile(str(self._path(key))) as file:
                about = pa.ipc.open_file(file).schema.metadata or {}
        except (FileNotFoundError, pa.ArrowInvalid):  # never begun, or lost with the power
            return False
        return orjson.loads(about[_ABOUT.encode()])["stamp"] == stamp

    def add(self, key: str, stamp: str, rows: list[ClipRow], rejects: list[Reject], notes: Any):
        """Records a take as finished, in one step that cannot be seen half done."""
        take = take_table(rows) if rows else None
        about = {
            "stamp": stamp,
            "take_name": take.take_name if take else "",
            "digest": take.digest if take else "",
            "rejects": [asdict(reject) for reject in rejects],
            "notes": notes,
        }
        table = take.table if take else ROW_SCHEMA.empty_table()
        table = table.replace_schema_metadata({_ABOUT: orjson.dumps(about)})
        # Not flushed to the disk: that costs more than reading the take. A kill loses nothing by
        # it; after a power cut a file may be empty, and then the take is read again.
        path = self._path(key)
        partial = path.with_name(f"{key}.{os.getpid()}-{threading.get_ident()}{PARTIAL}")
        with partial.open("wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        partial.replace(path)

    def read(self, key: str) -> FinishedTake:
        """The take as `add` recorded it."""
        with pa.OSFile(str(self._path(key))) as file:
            table = pa.ipc.open_file(file).read_all()
        about = orjson.loads((table.schema.metadata or {})[_ABOUT.encode()])
        rejects = tuple(Reject(**plain) for plain in about["rejects"])
        table = table.replace_schema_metadata(None)
        take = TakeTable(about["take_name"], about["digest"], table) if len(table) else None
        return FinishedTake(take, rejects, about["notes"])

    def remove(self) -> None:
        """Forgets everything: the index is written."""
        for path in [*self.folder.glob("*" + _ENDING), self.folder / "about.json"]:
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / (key + _ENDING)


@contextmanager
def locked_journal(out: Path, settings: Mapping[str, Any]) -> Iterator[TakeJournal]:
    """The journal of the index `out`, for one ingest at a time; it goes when all went well."""
    journal = TakeJournal(out.with_name(out.name + ".journal"))
    with write_lock(journal.folder):
        for left in out.parent.iterdir():
            if left.name.startswith(out.name + ".") and left.name.endswith(".partial"):
                left.unlink(missing_ok=True)  # of a writer that was killed: we hold the lock
        journal.begin(settings)
        yield journal
        journal.remove()
    with suppress(OSError):  # the next ingest is waiting in it
        journal.folder.rmdir()


def take_key(entry: TakeEntry) -> str:
    """Name of the take's file in the journal, whatever characters its own name has."""
    body = orjson.dumps([entry.take_name, entry.take_uid, entry.fault])
    return blake3.blake3(body).hexdigest()[:32]


def input_stamp(dataset: Dataset, entry: TakeEntry) -> str:
    """Changes when the take's entry, or the size or time of a file that it is read from, does."""
    record = entry.record.model_dump(mode="json") if entry.record else None
    listed = [entry.take_name, entry.take_uid, entry.category, entry.split, entry.fault, record]
    files = sorted(_file_stamp(path) for path in dataset.inputs(entry))
    return blake3.blake3(orjson.dumps([listed, files])).hexdigest()


def _file_stamp(path: Path) -> str:
    try:
        about = path.stat()
    except OSError as refused:
        return f"{path} {refused.strerror}"
    return f"{path} {about.st_size} {about.st_mtime_ns}"
