"""The four commands: each does what its library call does, and faults end as exit code 2."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli import app
from stores.reading import Store

ROOT = Path(__file__).parents[3]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["study", *map(str, words)], catch_exceptions=False)


@pytest.fixture
def build_study(
    study_store: Store, methods: dict[str, Path], tmp_path: Path
) -> Callable[..., Result]:
    def build(*more: object) -> Result:
        both = ("--ours", methods["ours"], "--baseline", methods["baseline"])
        where = ("--store", study_store.path, "--out", tmp_path / "study")
        return run("build", *both, *where, *more)

    return build


def test_from_two_folders_of_samples_to_scores(build_study: Callable[..., Result], tmp_path: Path):
    study = tmp_path / "study"
    built = build_study("--per-category", 2, "--json")
    assert built.exit_code == 0
    assert json.loads(built.stdout)["categories"] == {"Bike": 2, "Covid Test": 2}
    command = [sys.executable, "-c", "import cli; cli.app()", "study", "serve", str(study)]
    server = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert server.stdout
    url = re.search(r"http://\S+", server.stdout.readline())
    assert url
    links = run("invite", study, "--count", 3, "--url", url[0]).stdout.split()
    for link in links[:2]:
        for number in range(1, 5):
            urllib.request.urlopen(f"{link}/{number}", data=b"choice=none").close()
    server.send_signal(signal.SIGINT)
    server.wait(timeout=30)
    server.stdout.close()
    scored = run("score", study)
    assert scored.exit_code == 0
    assert "3 invited, 2 counted, 0 of them submitted" in scored.stdout
    found = json.loads(run("score", study, "--json").stdout)
    assert (found["overall"]["none"], found["overall"]["score"]) == (8, 0.5)
    assert json.loads((study / "study-scores.json").read_text()) == found


def test_faults_are_messages_and_exit_code_two(build_study: Callable[..., Result], tmp_path: Path):
    result = build_study()  # 25 a category, of which there are not so many
    assert result.exit_code == 2
    assert "fix:" in result.stderr
    for words in (("invite",), ("serve", "--port", "0"), ("score",)):
        result = run(words[0], tmp_path, *words[1:])
        assert (result.exit_code, "not a study" in result.stderr) == (2, True)


def test_a_port_in_use_is_told_before_anything_is_served(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", folder, "--port", taken.getsockname()[1])
    assert (result.exit_code, "a port in use" in result.stderr) == (2, True)
