"""Claims about the path into a bucket: the shell encodes to a URL what it encodes to a folder."""

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from cli import app
from pipeline.encode import encode_latents
from pipeline.ingest import ingest
from pipeline.simulate.root import simulate_root
from stores.errors import StoreFault
from stores.index import ClipRecipe
from stores.lock import write_lock
from stores.place import RemotePath
from stores.verify import verify_store
from stores.zarr_store import open_store


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clip list of one simulated take."""
    folder = tmp_path_factory.mktemp("world")
    simulate_root(folder / "root", takes=1, seconds=1.0, seed=0, height=56, samples=1)
    recipe = ClipRecipe(frames=5, stride=2, window_step=8, hw=(32, 48))
    return ingest(folder / "root", folder / "clips.parquet", recipe=recipe).index


def test_an_encode_into_a_bucket_makes_the_store_of_an_encode_into_a_folder(
    clips: Path, tmp_path: Path, bucket: RemotePath
) -> None:
    local = encode_latents(clips, tmp_path / "a.store", vae_spec="tiny", workers=1)
    url = f"{bucket}/data/a.store"
    words = ["encode-latents", str(clips), "--store", url, "--vae", "tiny", "--workers", "2"]
    done = CliRunner().invoke(app, [*words, "--device", "cpu", "--json"])
    assert (done.exit_code, orjson.loads(done.stdout)["hash"]) == (0, local.hash)
    store = open_store(url)
    assert store.hash == local.hash and verify_store(store).damaged == ()
    again = CliRunner().invoke(app, [*words, "--device", "cpu", "--json"])
    assert orjson.loads(again.stdout)["clips_new"] == 0


def test_an_encode_that_loses_its_server_goes_on_where_it_was(
    clips: Path, tmp_path: Path, bucket: RemotePath, s3
) -> None:
    local = encode_latents(clips, tmp_path / "a.store", vae_spec="tiny", workers=1)
    path, puts = bucket / "a.store", list[str]()

    def encode() -> str:
        return encode_latents(clips, path, vae_spec="tiny", workers=1, clips_per_shard=2).hash

    def cut_off(method: str, at: str) -> str | None:
        if method == "PUT" and "/c/" in at:
            puts.append(at)
        return "503 Slow Down" if len(puts) > 5 and method == "PUT" else None

    s3.before = cut_off
    with pytest.raises(StoreFault, match="refuses"):
        encode()
    s3.before = lambda method, at: None
    with pytest.raises(StoreFault, match="no clips yet"):
        open_store(path)
    assert encode() == local.hash and verify_store(open_store(path)).damaged == ()


def test_a_second_encode_into_a_bucket_is_refused(clips: Path, bucket: RemotePath) -> None:
    with write_lock(bucket / "a.store"), pytest.raises(StoreFault, match="Somebody else is wri"):
        encode_latents(clips, bucket / "a.store", vae_spec="tiny", workers=1)
