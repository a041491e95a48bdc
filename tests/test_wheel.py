"""The wheel: exactly our names, our package data, and a script that runs from anywhere."""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE_DATA = {
    *(f"exo2ego/experiments/{stage}.toml" for stage in ("align", "multiexocon", "poseinj")),
    "exo2ego/evaluation/lpips_alex.safetensors",
    "exo2ego/evaluation/LPIPS_LICENSE",
    "exo2ego/evaluation/bias/prompts.toml",
    "exo2ego/evaluation/report/style.css",
    *(f"exo2ego/evaluation/study/page/{name}" for name in ("sample.html", "study.css", "study.js")),
    "exo2ego/evaluation/tables/published.toml",
    *(
        f"exo2ego/weights/mini/{part}/{name}"
        for part in ("vae", "transformer_2")
        for name in ("config.json", "diffusion_pytorch_model.safetensors", "README.md")
    ),
    *(
        f"exo2ego/weights/mini/{stage}/{name}"
        for stage in ("align", "multiexocon", "poseinj")
        for name in ("state.json", "weights.safetensors", "README.md")
    ),
}


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    source.mkdir()
    for name in ("pipeline", "stores", "exo2ego"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("cli.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, source, cwd=out)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_our_top_level_names_and_no_other(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"cli.py", "pipeline", "stores", "exo2ego"}
    assert names >= PACKAGE_DATA


@pytest.mark.slow
def test_the_installed_script_runs_from_another_folder(wheel: Path, tmp_path: Path):
    # The dependencies come from the environment that runs the tests, through a .pth file: the fresh
    # environment holds only the wheel, so a module that the wheel lacks is missing here.
    home = tmp_path / "fresh"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    borrowed = next(path for path in sys.path if Path(path, "typer").is_dir())
    Path(site.strip(), "borrowed.pth").write_text(f"{borrowed}\n")
    assert "encode-latents" in run(home / "bin" / "exo2ego", "--help", cwd=Path("/"))
    found = run(
        python,
        "-c",
        "import cli, pipeline, stores, exo2ego; print(cli.__file__, exo2ego.__file__)",
        cwd=Path("/"),
    )
    assert all(Path(path).is_relative_to(home) for path in found.split())
