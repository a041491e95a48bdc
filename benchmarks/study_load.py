"""The user study under load: a hundred participants at once, over HTTP on loopback.

Each loads a sample's page and its three videos, looks for a moment, votes, and goes on; once at a
pace far above a person's, once without a pause. The server is a process of its own; the client
shares the cores with it.
"""

import asyncio
import random
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import blake3
import numpy as np

from benchmarks.rows import Row
from exo2ego.evaluation.study.ballots import CHOICES, Ballots
from exo2ego.evaluation.study.folder import BALLOTS, STUDY, VIDEOS, BlindSample, Study
from exo2ego.evaluation.study.serve import invite
from stores.atomic import write_whole

PARTICIPANTS = 100
SAMPLES = 15
VIDEO_BYTES = 60_000
"""About that of nine frames of 256x256."""
LOOK_SECONDS = 2.0
"""Mean time that somebody takes for a sample; a clip alone lasts 1.2 seconds."""
MOST_SECONDS = 0.1
PANELS = ("reference", "blue", "red")


@dataclass
class Spent:
    """Seconds of every answer, by kind, and the answers that were not as they should be."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    wall: float = 0.0


def run() -> list[Row]:
    """All rows; about a minute and a half."""
    rows = []
    for name, look in (("looking", LOOK_SECONDS), ("without a pause", 0.0)):
        with TemporaryDirectory() as folder:
            study = _write_study(Path(folder))
            with _served(study) as port:
                tokens = [link.rpartition("/")[2] for link in invite(study, PARTICIPANTS, "")]
                spent = asyncio.run(_all_vote(port, tokens, look))
            rows += _rows(name, spent, look, _votes_in(study))
    return rows


def _rows(name: str, spent: Spent, look: float, saved: int) -> list[Row]:
    requests = sum(map(len, spent.seconds.values()))
    at_most = MOST_SECONDS * 1e3 if look else None
    note = f"{PARTICIPANTS} at once, {SAMPLES} samples each"
    note += f", {look:g} s a sample" if look else ""
    rows = [Row(f"{name}: requests a second", requests / spent.wall, "1/s", note=note)]
    for kind in ("page", "vote", "video"):
        middle, high, most = np.percentile(spent.seconds[kind], [50, 95, 100]) * 1e3
        bar = at_most if kind != "video" else None
        about = f"median {middle:.1f}, longest {most:.0f} ms"
        rows.append(Row(f"{name}: {kind}, p95", high, "ms", at_most=bar, note=about))
    wrong = "; ".join(spent.errors[:2])
    lost = PARTICIPANTS * SAMPLES - saved
    return [
        *rows,
        Row(f"{name}: errors", len(spent.errors), "", at_most=0, note=wrong),
        Row(f"{name}: votes lost", lost, "", at_most=0, note=f"{saved} saved"),
    ]


async def _all_vote(port: int, tokens: Sequence[str], look: float) -> Spent:
    spent, began = Spent(), time.perf_counter()
    await asyncio.gather(*(_votes(port, token, look, spent) for token in tokens))
    spent.wall = time.perf_counter() - began
    return spent


async def _votes(port: int, token: str, look: float, spent: Spent) -> None:
    """One participant's visit, on one connection."""
    draw = random.Random(token)
    await asyncio.sleep(draw.uniform(0, look))  # people do not start in step
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(kind: str, method: str, path: str, body: str, wanted: int) -> None:
        began = time.perf_counter()
        head = f"{method} /s/{token}{path} HTTP/1.1\r\nhost: study\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length else 0)
        spent.seconds.setdefault(kind, []).append(time.perf_counter() - began)
        if f" {wanted} ".encode() not in answer[:14]:
            spent.errors.append(f"{kind} {path}: {answer[:40]!r}")

    await ask("page", "GET", "", "", 200)
    for number in range(1, SAMPLES + 1):
        await ask("page", "GET", f"/{number}", "", 200)
        for panel in PANELS:
            await ask("video", "GET", f"/{number}/{panel}.mp4", "", 200)
        await asyncio.sleep(draw.uniform(0.5, 1.5) * look)
        await ask("vote", "POST", f"/{number}", f"choice={draw.choice(CHOICES)}", 303)
    await ask("page", "GET", "/review", "", 200)
    await ask("vote", "POST", "/submit", "", 303)
    writer.close()
    await writer.wait_closed()


def _write_study(folder: Path) -> Path:
    """A study of noise for videos: what is in them does not matter to a server."""
    (folder / VIDEOS).mkdir()
    samples, digests = [], {}
    for _ in range(SAMPLES):
        names = [secrets.token_hex(16) for _ in PANELS]
        for name in names:
            data = secrets.token_bytes(VIDEO_BYTES)
            (folder / VIDEOS / f"{name}.mp4").write_bytes(data)
            digests[name] = blake3.blake3(data).hexdigest()
        reference, one, other = names
        samples.append(
            BlindSample(id=secrets.token_hex(16), reference=reference, candidates=(one, other))
        )
    study = Study(study_id=secrets.token_hex(16), samples=tuple(samples), digests=digests)
    write_whole(folder / STUDY, study.model_dump_json().encode())
    Ballots.create(folder / BALLOTS, study.study_id).close()
    return folder


@contextmanager
def _served(study: Path) -> Iterator[int]:
    """The port of a server of its own process."""
    command = [sys.executable, "-c", "import cli; cli.app()", "study", "serve", str(study)]
    server = subprocess.Popen(
        [*command, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert server.stdout
    with server.stdout as told:
        found = re.search(r":(\d+) serves", told.readline())
        if not found:
            raise RuntimeError(f"the server did not start: {server.wait()}")
        try:
            yield int(found[1])
        finally:
            server.terminate()
            server.wait()


def _votes_in(study: Path) -> int:
    ballots = Ballots.open(
        study / BALLOTS, Study.model_validate_json((study / STUDY).read_bytes()).study_id
    )
    votes = len(ballots.votes())
    ballots.close()
    return votes
