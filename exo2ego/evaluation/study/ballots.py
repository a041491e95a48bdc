"""The ballot box: participants and their votes in SQLite, each vote on disk before it is told."""

import contextlib
import os
import secrets
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from exo2ego.evaluation.study.folder import StudyFault

Choice = Literal["blue", "red", "none"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
BALLOTS_FORMAT = 1
"""Version of the tables (SQLite's user_version); another one is refused."""
TOKEN_BYTES = 16
"""128 random bits: nobody guesses a participant's link."""
WAIT_SECONDS = 10.0
"""How long a vote waits for another process that writes (an invitation, say)."""
_TABLES = """
CREATE TABLE study (study_id TEXT NOT NULL) STRICT;
CREATE TABLE participants (
    token TEXT PRIMARY KEY, number INTEGER NOT NULL UNIQUE,
    invited_at TEXT NOT NULL, submitted_at TEXT
) STRICT;
CREATE TABLE votes (
    token TEXT NOT NULL REFERENCES participants (token), sample_id TEXT NOT NULL,
    choice TEXT NOT NULL CHECK (choice IN ('blue', 'red', 'none')),
    blue TEXT NOT NULL, cast_at TEXT NOT NULL,
    PRIMARY KEY (token, sample_id)
) STRICT;
"""


class BallotSubmitted(Exception):
    """A vote by somebody who has submitted already."""


@dataclass(frozen=True)
class Participant:
    """Somebody who was invited."""

    number: int
    """1, 2, ...: how results name them."""
    submitted_at: str | None
    """UTC; None while the ballot is open."""


@dataclass(frozen=True)
class Vote:
    """One participant's answer to one sample."""

    participant: int
    sample_id: str
    choice: Choice
    blue: str
    """Name of the video that was shown as blue."""
    cast_at: str
    """UTC; when it was last changed."""


@dataclass(eq=False)
class _Pending:
    """A vote that waits to be written."""

    token: str
    sample_id: str
    choice: Choice
    blue: str
    is_done: bool = False
    fault: BallotSubmitted | sqlite3.Error | None = None


class Ballots:
    """An open ballot box; usable from several threads, and beside other processes."""

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self.path = path
        self._connection = connection
        self._lock = threading.Lock()
        self._pending: deque[_Pending] = deque()
        # a connection of their own, so that who reads does not wait for the disk with who votes
        self._reader, self._reader_lock = _connect(path), threading.Lock()

    @classmethod
    def create(cls, path: Path, study_id: str) -> "Ballots":
        """A new, empty ballot box, readable by its owner alone."""
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        connection = _connect(path)
        connection.executescript(_TABLES)
        connection.execute("INSERT INTO study VALUES (?)", (study_id,))
        connection.execute(f"PRAGMA user_version = {BALLOTS_FORMAT}")
        return cls(path, connection)

    @classmethod
    def open(cls, path: Path, study_id: str) -> "Ballots":
        """The ballot box of a study. Raises StudyFault if there is none, or it is another's."""
        if not path.is_file():
            raise _unfit(path, "a ballot box", "no such file")
        connection = _connect(path)
        try:
            _check(path, connection, study_id)
        except sqlite3.DatabaseError as damage:
            connection.close()
            raise _unfit(path, "a ballot box", f"{type(damage).__name__}: {damage}") from damage
        except StudyFault:
            connection.close()
            raise
        return cls(path, connection)

    def close(self) -> None:
        """Closes it; what was cast is on disk already."""
        self._reader.close()
        self._connection.close()

    def invite(self, count: int) -> list[str]:
        """Tokens of `count` new participants."""
        tokens = [secrets.token_urlsafe(TOKEN_BYTES) for _ in range(count)]
        with self._transaction() as database:
            (last,) = database.execute(
                "SELECT coalesce(max(number), 0) FROM participants"
            ).fetchone()
            rows = [(token, last + n, _now()) for n, token in enumerate(tokens, start=1)]
            database.executemany("INSERT INTO participants VALUES (?, ?, ?, NULL)", rows)
        return tokens

    def find(self, token: str) -> Participant | None:
        """The participant with this token, or None."""
        query = "SELECT number, submitted_at FROM participants WHERE token = ?"
        found = self._rows(query, token)
        return Participant(*found[0]) if found else None

    def choices(self, token: str) -> dict[str, Choice]:
        """What a participant has chosen, by sample."""
        return dict(self._rows("SELECT sample_id, choice FROM votes WHERE token = ?", token))

    def cast(self, token: str, sample_id: str, choice: Choice, blue: str) -> None:
        """Writes a vote, on disk when this returns; the same vote again changes nothing.

        Votes that wait for the disk at the same time are written together: one flush for all.
        Raises BallotSubmitted if the participant has submitted.
        """
        vote = _Pending(token, sample_id, choice, blue)
        self._pending.append(vote)
        with self._lock:
            if not vote.is_done:
                self._write_pending()
        if vote.fault:
            raise vote.fault

    def submit(self, token: str) -> None:
        """Closes a participant's ballot; once more changes nothing."""
        with self._transaction() as database:
            database.execute(
                "UPDATE participants SET submitted_at = ? WHERE token = ? AND submitted_at IS NULL",
                (_now(), token),
            )

    def participants(self) -> list[Participant]:
        """Everybody who was invited, by number."""
        query = "SELECT number, submitted_at FROM participants ORDER BY number"
        return [Participant(*row) for row in self._rows(query)]

    def votes(self) -> list[Vote]:
        """Every vote, by participant and sample."""
        query = (
            "SELECT number, sample_id, choice, blue, cast_at FROM votes JOIN participants"
            " USING (token) ORDER BY number, sample_id"
        )
        return [Vote(*row) for row in self._rows(query)]

    def _rows(self, query: str, *values: str) -> list[tuple]:
        with self._reader_lock:
            return self._reader.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything in it, or nothing."""
        with self._lock, self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    def _write_pending(self) -> None:
        """Writes all votes that wait, and says of each what came of it. Asks for the lock held."""
        votes = [self._pending.popleft() for _ in range(len(self._pending))]
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                for vote in votes:
                    vote.fault = self._write(vote)
        except sqlite3.Error as refused:
            for vote in votes:
                vote.fault = refused
        for vote in votes:
            vote.is_done = True

    def _write(self, vote: _Pending) -> BallotSubmitted | None:
        """Writes one vote within a transaction; or says why it may not be."""
        query = "SELECT submitted_at FROM participants WHERE token = ?"
        if self._connection.execute(query, (vote.token,)).fetchone() != (None,):
            return BallotSubmitted()
        self._connection.execute(
            "INSERT INTO votes VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " choice = excluded.choice, blue = excluded.blue, cast_at = excluded.cast_at"
            " WHERE (choice, blue) != (excluded.choice, excluded.blue)",
            (vote.token, vote.sample_id, vote.choice, vote.blue, _now()),
        )
        return None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )
    with contextlib.suppress(sqlite3.DatabaseError):  # no database: told by the check
        connection.execute("PRAGMA journal_mode = WAL")
        # an acknowledged vote survives not only the process but the power, too
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _check(path: Path, connection: sqlite3.Connection, study_id: str) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != BALLOTS_FORMAT:
        age = "an older" if version < BALLOTS_FORMAT else "a newer"
        raise _unfit(path, f"format {BALLOTS_FORMAT}", f"format {version}, of {age} exo2ego")
    (found,) = connection.execute("SELECT study_id FROM study").fetchone()
    if found != study_id:
        raise _unfit(path, f"the votes of study {study_id}", f"those of study {found}")


def _unfit(path: Path, expected: str, got: str) -> StudyFault:
    return StudyFault(
        "The votes of this study cannot be opened.",
        where=path,
        expected=expected,
        got=got,
        fix="Put back the study's own votes.sqlite (with its -wal file, if there is one), and use "
        "the version of exo2ego that built the study.",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
