"""A small study of two categories, built by the real builder, and a server of it on loopback."""

import dataclasses
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from exo2ego.evaluation.manifest import Manifest, SampledClip, SampleSettings, write_part
from exo2ego.evaluation.study.ballots import Ballots
from exo2ego.evaluation.study.booth import Booth
from exo2ego.evaluation.study.build import build
from exo2ego.evaluation.study.folder import BALLOTS, read_study, read_videos
from exo2ego.evaluation.study.serve import listen, server
from exo2ego.training.checkpoint import software_versions
from stores.index import ClipRow
from stores.reading import Store
from stores.zarr_store import open_store

CLIPS = {"Bike": 4, "Covid Test": 3}
PER_CATEGORY = 3


@pytest.fixture(scope="session")
def study_store(make_store: Callable[..., Path], clip_rows: Sequence[ClipRow]) -> Store:
    """A store of test clips of two categories, with their true frames."""
    row = next(row for row in clip_rows if row.split == "test")
    rows = [
        dataclasses.replace(
            row, clip_id=f"{category[:4].lower()}{n}-f000000", category=category, sets=("test-1",)
        )
        for category, count in CLIPS.items()
        for n in range(count)
    ]
    return open_store(make_store(rows, seed=7))


def settings_of(store: Store, step: int) -> SampleSettings:
    return SampleSettings(
        store_hash=store.hash,
        stage="align",
        step=step,
        weights_digest=f"{step:064x}",
        first_frames=None,
        evaluation_set="test-1",
        sampler=None,
        seed=None,
        weights=None,
        device="cpu",
    )


@pytest.fixture(scope="session")
def write_samples(study_store: Store) -> Callable[..., Path]:
    """Writes a folder of samples as `sample` does: the truth, with so much noise on it."""

    def write(folder: Path, *, step: int, noise: int, clips: Sequence[str] | None = None) -> Path:
        folder.mkdir()
        done = {}
        for n, clip_id in enumerate(study_store.clip_ids if clips is None else clips):
            truth = study_store.read("ego_frames", [clip_id])[0]
            drawn = np.random.default_rng((step, n)).integers(-noise, noise + 1, truth.shape)
            frames = np.clip(truth.astype(int) + drawn, 0, 255).astype(np.uint8)
            save_file({"frames": frames}, folder / f"{clip_id}.safetensors")
            done[clip_id] = SampledClip(
                noise_seed=None, frames=f"{clip_id}.safetensors", pictures=[], seconds=0.0
            )
        settings = settings_of(study_store, step)
        write_part(folder, Manifest(settings=settings, clips=done, software=software_versions()))
        return folder

    return write


@pytest.fixture(scope="session")
def methods(
    write_samples: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Samples of two methods; ours is nearer to the truth, and easier to encode."""
    folder = tmp_path_factory.mktemp("methods")
    return {
        "ours": write_samples(folder / "ours", step=100, noise=2),
        "baseline": write_samples(folder / "baseline", step=200, noise=90),
    }


@pytest.fixture(scope="session")
def built(
    study_store: Store, methods: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A study that nobody has voted in; not to be written to."""
    out = tmp_path_factory.mktemp("built") / "study"
    build(methods["ours"], methods["baseline"], study_store, out, per_category=PER_CATEGORY)
    return out


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """The same study, one's own."""
    return Path(shutil.copytree(built, tmp_path / "study"))


@dataclasses.dataclass
class Served:
    """A study on loopback, and what a test asks of it."""

    folder: Path
    port: int
    ballots: Ballots

    def ask(
        self, method: str, path: str, body: str | bytes | None = None, **headers: str
    ) -> tuple[HTTPResponse, bytes]:
        """One request exactly as given, without following anything."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_accept_encoding=True)
        data = body.encode() if isinstance(body, str) else body
        if data is not None:
            headers = {"content-length": str(len(data))} | headers
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(data)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def invite(self) -> str:
        """The path of a new participant's link."""
        (token,) = self.ballots.invite(1)
        return f"/s/{token}"


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    """The study, served by the real server on a free port."""
    study = read_study(folder)
    ballots = Ballots.open(folder / BALLOTS, study.study_id)
    serving = server(Booth(study, read_videos(folder, study), ballots))
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
        thread.start()
        yield Served(folder, listening.getsockname()[1], ballots)
        serving.should_exit = True
        thread.join()
    ballots.close()
