"""The ballot box: refuses what is not its own, and loses no vote that it has acknowledged."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from exo2ego.evaluation.study.ballots import Ballots, BallotSubmitted
from exo2ego.evaluation.study.blinding import rows_for
from exo2ego.evaluation.study.folder import BALLOTS, StudyFault, read_study
from exo2ego.evaluation.study.serve import invite, serve


def opened(folder: Path) -> Ballots:
    return Ballots.open(folder / BALLOTS, read_study(folder).study_id)


@pytest.mark.parametrize(
    ("version", "says"), [(0, "an older exo2ego"), (2, "a newer exo2ego")], ids=["older", "newer"]
)
def test_a_database_of_another_version_is_refused_and_left_alone(
    version: int, says: str, folder: Path
):
    database = sqlite3.connect(folder / BALLOTS)
    database.execute(f"PRAGMA user_version = {version}")
    database.close()
    with pytest.raises(StudyFault, match=says):
        serve(folder, host="127.0.0.1", port=0, ready=print)
    database = sqlite3.connect(folder / BALLOTS)
    assert database.execute("PRAGMA user_version").fetchone() == (version,)
    database.close()


@pytest.mark.parametrize(
    "text", [None, b"", b"no database" * 99, b"SQLite format 3\0" + b"\1" * 99]
)
def test_what_is_no_ballot_box_is_refused(text: bytes | None, folder: Path):
    (folder / BALLOTS).unlink()
    if text is not None:
        (folder / BALLOTS).write_bytes(text)
    with pytest.raises(StudyFault, match="cannot be opened"):
        invite(folder, 1, "http://here")


def test_the_votes_of_another_study_are_refused(folder: Path):
    (folder / BALLOTS).unlink()
    Ballots.create(folder / BALLOTS, "another").close()
    with pytest.raises(StudyFault, match="those of study another"):
        opened(folder)


def test_votes_and_links_are_for_the_owners_eyes(folder: Path):
    box = opened(folder)
    box.invite(1)
    modes = {path.stat().st_mode & 0o077 for path in folder.glob(f"{BALLOTS}*")}
    assert (len(list(folder.glob(f"{BALLOTS}*"))) > 1, modes) == (True, {0})
    box.close()


def test_participants_are_numbered_over_all_invitations(folder: Path):
    box = opened(folder)
    tokens = box.invite(2) + box.invite(3)
    assert [person.number for person in box.participants()] == [1, 2, 3, 4, 5]
    assert [box.find(token) for token in tokens] == box.participants()
    assert box.find("") is None
    box.close()


def test_nobody_votes_after_submitting_or_without_an_invitation(folder: Path):
    box = opened(folder)
    (token,) = box.invite(1)
    box.submit(token)
    for stranger in (token, "nobody"):
        with pytest.raises(BallotSubmitted):
            box.cast(stranger, "sample", "blue", "video")
    assert box.votes() == []
    box.close()


def test_threads_voting_at_once_lose_nothing(folder: Path):
    box = opened(folder)
    tokens = box.invite(8)

    def cast_all(token: str) -> None:
        for n in range(25):
            box.cast(token, f"sample{n}", "red", "video")

    threads = [threading.Thread(target=cast_all, args=(token,)) for token in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(box.votes()) == 200
    box.close()


class Voter(threading.Thread):
    """Votes over HTTP, again and again, until the server is gone; notes what it was told."""

    def __init__(self, port: int, token: str):
        super().__init__()
        self.port, self.token = port, token
        self.told: dict[int, str] = {}
        self.asked: tuple[int, str] | None = None
        """What it asked for last, and may or may not have been saved."""

    def run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        for turn in range(100_000):
            number, choice = turn % 6 + 1, ("blue", "red", "none")[turn // 6 % 3]
            self.asked = (number, choice)
            try:
                connection.request("POST", f"/s/{self.token}/{number}", f"choice={choice}")
                answer = connection.getresponse()
                answer.read()
            except (OSError, HTTPException):
                break
            if answer.status == 303:
                self.told[number] = choice
        connection.close()


def test_a_server_that_is_killed_while_votes_pour_in_has_lost_none_that_it_acknowledged(
    folder: Path,
):
    command = [sys.executable, "-c", "import cli; cli.app()", "study", "serve", str(folder)]
    server = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert server.stdout
    found = re.search(r"http://127\.0\.0\.1:(\d+)", server.stdout.readline())
    assert found
    port = int(found[1])
    tokens = [link.rpartition("/")[2] for link in invite(folder, 6, "")]
    voters = [Voter(port, token) for token in tokens]
    for voter in voters:
        voter.start()
    deadline = time.monotonic() + 60
    while min(len(voter.told) for voter in voters) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    server.stdout.close()
    for voter in voters:
        voter.join()
    box, study = opened(folder), read_study(folder)
    for voter in voters:
        assert len(voter.told) == 6
        rows, saved = rows_for(study, voter.token), box.choices(voter.token)
        for number, choice in voter.told.items():
            held = saved[rows[number - 1].sample_id]
            # the last request may have been saved without an answer
            assert held == choice or (number, held) == voter.asked
    box.close()


def test_each_of_many_waiting_votes_learns_its_own_fate(folder: Path):
    box = opened(folder)
    tokens = box.invite(12)
    for token in tokens[::2]:
        box.submit(token)
    refused: list[str] = []

    def cast(token: str) -> None:
        try:
            box.cast(token, "sample", "blue", "video")
        except BallotSubmitted:
            refused.append(token)

    with box._lock:  # all of them wait, so that one of them writes for all
        threads = [threading.Thread(target=cast, args=(token,)) for token in tokens]
        for thread in threads:
            thread.start()
        while len(box._pending) < len(tokens):
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert sorted(refused) == sorted(tokens[::2])
    assert [vote.participant for vote in box.votes()] == [2, 4, 6, 8, 10, 12]
    box.close()


def test_votes_that_wait_together_are_all_told_when_the_disk_refuses(folder: Path):
    box = opened(folder)
    tokens = box.invite(4)
    other = sqlite3.connect(folder / BALLOTS)
    other.executescript(
        "CREATE TRIGGER full BEFORE INSERT ON votes BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    told: list[str] = []

    def cast(token: str) -> None:
        try:
            box.cast(token, "sample", "blue", "video")
        except sqlite3.Error as refused:
            told.append(str(refused))

    threads = [threading.Thread(target=cast, args=(token,)) for token in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["disk full"] * 4
    other.execute("DROP TRIGGER full")
    other.close()
    box.cast(tokens[0], "sample", "blue", "video")
    assert len(box.votes()) == 1
    box.close()
