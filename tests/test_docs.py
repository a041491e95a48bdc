"""The documentation runs: every Python block of docs/ and README.md, page by page, in order."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN_ONLY = {"", "text", "json", "toml", "bash", "sh", "bibtex"}
"""Languages that are looked at, not run; commands are checked by name and option below."""


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text()) if name == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_is_run_or_is_of_a_language_that_is_only_shown(page: Path):
    languages = {name for name, _ in BLOCK.findall(page.read_text())}
    assert languages <= SHOWN_ONLY | {"python"}, page


def commands_shown(page: Path) -> list[list[str]]:
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in lines if words and words[0] == "exo2ego"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_shown_exist_with_their_options(page: Path):
    import typer.main

    from cli import app

    for words in commands_shown(page):
        command = typer.main.get_command(app)
        rest = words[1:]
        while rest and rest[0] in getattr(command, "commands", {}):
            command, rest = command.commands[rest[0]], rest[1:]
        known = {name for parameter in command.params for name in parameter.opts}
        unknown = [word for word in rest if word.startswith("--") and word not in known]
        assert rest != words[1:], f"{page.name}: no such command: {' '.join(words)}"
        assert not unknown, f"{page.name}: {' '.join(words)}: unknown {unknown}"


def test_pages_that_the_design_names_are_there():
    names = "quickstart layout store-format cameras experiments scaling decisions"
    assert {f"{name}.md" for name in names.split()} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
