"""Exports of every form: they say where they come from, and refuse what they cannot do."""

import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from cli import app
from exo2ego.training.checkpoint import CheckpointFault, checkpoints, find_checkpoint, read_state
from exo2ego.training.experiment import Experiment
from exo2ego.training.export import FORMATS, export
from exo2ego.training.export.written import ExportFault, base_license
from exo2ego.training.trainer import train
from stores.errors import StoreFault
from stores.reading import Store


def header_of(path: Path) -> str:
    with safe_open(path, framework="pt") as opened:
        return opened.metadata()["exo2ego"]


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_says_where_it_comes_from_and_no_path(
    form: str, deep_run: Path, scaled_run: Path, tmp_path: Path
):
    report = export(deep_run, tmp_path / "out", form=form)
    states = [read_state(find_checkpoint(run)) for run in (scaled_run, deep_run)]
    for file in (path for path in report.files if path.suffix == ".safetensors"):
        text = header_of(file)
        assert str(tmp_path.parent) not in text
        for said, state in zip(orjson.loads(text)["states"], states, strict=True):
            assert said["weights_digest"] == state.weights_digest
            assert said["store_hash"] == state.store_hash
            assert said["experiment_digest"] == state.experiment_digest
            assert said["experiment"] == orjson.loads(orjson.dumps(state.experiment))
            assert said["software"] == state.software


def test_wans_folder_is_named_without_its_path_and_with_its_licence(
    framed_store: Store,
    tiny_experiment: Callable[..., Experiment],
    save_wan: Callable[..., Path],
    tmp_path: Path,
):
    folder, run = save_wan(tmp_path / "secret" / "wan"), tmp_path / "run"
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A Wan\n")
    experiment = tiny_experiment("multiexocon", "optimiser.steps=1")
    train("multiexocon", framed_store, run, experiment, wan_spec=str(folder))
    export(run, tmp_path / "lora.safetensors", form="peft")
    text = header_of(tmp_path / "lora.safetensors")
    assert "secret" not in text
    said = orjson.loads(text)
    assert said["states"][0]["wan"]["spec"] == "wan"
    assert said["base_license"] == "apache-2.0"


def test_a_licence_that_nobody_wrote_is_unknown(tmp_path: Path):
    assert base_license("tiny") is None
    assert base_license(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("# No front matter\n")
    assert base_license(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    for name, found in {"transformer_2": "mit", "another": None}.items():
        (tmp_path / name).mkdir()
        assert base_license(str(tmp_path / name)) == found


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_overwritten(form: str, scaled_run: Path, tmp_path: Path):
    export(scaled_run, tmp_path, form=form)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ExportFault, match="already"):
        export(scaled_run, tmp_path, form=form)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("form", FORMATS)
def test_align_has_neither_lora_nor_wan(form: str, align_run: Path, tmp_path: Path):
    with pytest.raises(ExportFault, match="stage align"):
        export(align_run, tmp_path / "out", form=form)
    assert not (tmp_path / "out").exists()


def test_an_altered_parent_is_not_exported(scaled_run: Path, deep_run: Path, tmp_path: Path):
    for run in (scaled_run, deep_run):
        shutil.copytree(run.parent, tmp_path / run.parent.name)
    weights = checkpoints(tmp_path / scaled_run.parent.name / "run")[-1] / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointFault, match="digest"):
        export(tmp_path / deep_run.parent.name / "run", tmp_path / "out", form="peft")


@contextmanager
def small_files() -> Iterator[None]:
    """Lets no file of this process grow beyond some KiB, as a full disk would; its output too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_is_a_fault_and_leaves_nothing_that_looks_whole(
    form: str, scaled_run: Path, tmp_path: Path
):
    with small_files(), pytest.raises(StoreFault, match="disk refuses"):
        export(scaled_run, tmp_path / "out", form=form)
    left = [path for path in tmp_path.rglob("*.safetensors") if path.stat().st_size > 8192]
    assert left == []
    assert not (tmp_path / "out" / "exo2ego.json").exists()


def test_the_shell_exports_and_says_what_it_wrote(scaled_run: Path, tmp_path: Path):
    words = ["export", str(scaled_run), "--out", str(tmp_path / "out"), "--format", "comfyui"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    said = orjson.loads(done.stdout)
    assert said["bytes"] == sum(Path(path).stat().st_size for path in said["files"])
    assert CliRunner().invoke(app, words).exit_code == 2
