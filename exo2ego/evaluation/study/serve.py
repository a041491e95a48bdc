"""Serving a study: checks all of it first, then answers participants until it is stopped."""

import errno
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from exo2ego.evaluation.study.ballots import Ballots
from exo2ego.evaluation.study.booth import Booth, make_app
from exo2ego.evaluation.study.folder import BALLOTS, StudyFault, read_study, read_videos

MOST_CONNECTIONS = 2000
"""At once; more are told to come back."""
BACKLOG = 1024
"""Connections that wait to be accepted."""


def invite(folder: Path, count: int, url: str) -> list[str]:
    """The personal links of `count` new participants; also while the study is served."""
    ballots = Ballots.open(folder / BALLOTS, read_study(folder).study_id)
    tokens = ballots.invite(count)
    ballots.close()
    return [f"{url.rstrip('/')}/s/{token}" for token in tokens]


def serve(folder: Path, *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves the study until SIGINT or SIGTERM; calls `ready` with the address once it listens.

    The key is not opened. Raises StudyFault if study, videos or votes are not whole, or if it
    cannot listen there; port 0 takes any that is free.
    """
    study = read_study(folder)
    videos = read_videos(folder, study)
    ballots = Ballots.open(folder / BALLOTS, study.study_id)
    try:
        with listen(host, port) as listening:
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{listening.getsockname()[1]}")
            server(Booth(study, videos, ballots)).run(sockets=[listening])
    finally:
        ballots.close()


def server(booth: Booth) -> uvicorn.Server:
    """A server of one process; addresses, which are secrets, are not logged."""
    config = uvicorn.Config(
        make_app(booth),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        backlog=BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises StudyFault if the address is in use or not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as refused:
        in_use = refused.errno == errno.EADDRINUSE
        raise StudyFault(
            "The study cannot be served at this address.",
            where=f"--host {host} --port {port}",
            expected="an address of this machine, and a port that is free",
            got="a port in use" if in_use else str(refused),
            fix="Give another --port, or stop what uses it."
            if in_use
            else "Give a --host of this machine (127.0.0.1, 0.0.0.0) and a --port that is allowed.",
        ) from refused
    # asyncio sets this only on sockets that name their protocol; else pages wait 40 ms for an ACK
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
