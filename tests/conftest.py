"""What every test may rely on: one thread, loud skips for what is lacking, a local S3 server."""

import os
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
import torch
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from stores.place import RemotePath
from stores.progress import Item, Track

# Two threads on tiny tensors wait for each other; and results must not depend on their number.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, with the reason, the tests whose marker names something that is not here."""
    lacking = {}
    if not torch.cuda.is_available():
        lacking["gpu"] = "needs a CUDA device: not measured on this machine"
    if "EXO2EGO_WEIGHTS" not in os.environ:
        lacking["weights"] = "needs EXO2EGO_WEIGHTS=<folder of Wan2.2-I2V-A14B-Diffusers>"
    for item in items:
        for marker, reason in lacking.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def stops_after() -> Callable[[int], Track]:
    """Makes a track that lets so many items through, and then is interrupted as by Ctrl-C."""

    def make(count: int) -> Track:
        def track(items: Iterable[Item], /, *, total: int, what: str, unit: str) -> Iterator[Item]:
            for number, item in enumerate(items):
                if number == count:
                    raise KeyboardInterrupt
                yield item

        return track

    return make


@dataclass(frozen=True)
class S3Request:
    """What was asked of the server, and the bytes of its answer."""

    method: str
    path: str
    range: str
    bytes: int


class S3Server:
    """A local S3 server over real HTTP; notes every request, and may be told to misbehave."""

    def __init__(self) -> None:
        self.requests: list[S3Request] = []
        self.before: Callable[[str, str], str | None] = _obeys
        """Called with method and path ahead of the server; may answer a status in its place."""
        moto = DomainDispatcherApplication(create_backend_app)

        def serve(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
            if status := self.before(method, path):
                start(status, [("Content-Length", "0")])
                return []
            answer = b"".join(moto(environ, start))
            asked = environ.get("HTTP_RANGE", "")
            self.requests.append(S3Request(method, path, asked, len(answer)))
            return [answer]

        self._server = make_server("127.0.0.1", 0, serve, True, request_handler=_Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def make_bucket(self) -> RemotePath:
        """An empty bucket that nobody else uses."""
        name = f"bucket-{uuid4().hex}"
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        with urllib.request.urlopen(request):
            return RemotePath(f"s3://{name}")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Quiet(MotoRequestHandler):
    def log(self, *_: Any) -> None:
        """Nothing: tests look at what is printed."""


def _obeys(method: str, path: str) -> None:
    return None


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The local S3 server, named by the environment as users name theirs."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_process.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setattr("stores.place.RETRIES", 1)  # where a server refuses, tests do not wait
    s3_process.requests.clear()
    yield s3_process
    s3_process.before = _obeys


@pytest.fixture
def bucket(s3: S3Server) -> RemotePath:
    """An empty bucket."""
    return s3.make_bucket()
