"""The arrows of docs/layout.md: who may import whom, and which names say nothing."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ("pipeline", "stores", "exo2ego")
ARROWS = {
    "cli": ("pipeline", "exo2ego", "stores"),
    "pipeline": ("pipeline", "stores", "exo2ego.geometry", "exo2ego.model.vae"),
    "stores": ("stores",),
    "exo2ego": ("exo2ego", "stores"),
    "exo2ego.geometry": ("exo2ego.geometry",),
    **dict.fromkeys(
        [f"exo2ego.geometry.{name}" for name in ("clip_lenses", "clip_points", "clip_rays")],
        ("exo2ego.geometry", "stores.index", "stores.recipe"),
    ),
    "exo2ego.model": ("exo2ego.model", "exo2ego.geometry", "stores"),
    "exo2ego.training": ("exo2ego.training", "exo2ego.model", "exo2ego.geometry", "stores"),
}
NAMES_THAT_SAY_NOTHING = {
    "utils",
    "util",
    "common",
    "base",
    "misc",
    "helpers",
    "core",
    "types",
    "constants",
}
LIGHT = {
    "typer",
    "logging",
    "os",
    "pathlib",
    "typing",
    "collections",
    "stores",
    "dataclasses",
    "time",
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def source_files() -> list[Path]:
    return [ROOT / "cli.py", *(path for house in HOUSE for path in (ROOT / house).rglob("*.py"))]


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def allowed_for(module: str) -> tuple[str, ...]:
    return ARROWS[max((package for package in ARROWS if within(module, package)), key=len)]


@pytest.mark.parametrize("path", source_files(), ids=module_of)
def test_imports_follow_the_arrows(path: Path):
    ours = {name for name in imports_of(path) if any(within(name, house) for house in HOUSE)}
    allowed = allowed_for(module_of(path))
    against = {name for name in ours if not any(within(name, package) for package in allowed)}
    assert not against, f"{module_of(path)} may import {allowed}, not {sorted(against)}"


def test_the_baseline_and_the_papers_own_modules_do_not_know_each_other():
    model = "exo2ego.model"
    ours = ("align", "multiexocon", "poseinj", "generator")
    for path in source_files():
        module, imports = module_of(path), imports_of(path)
        if within(module, f"{model}.vawan"):
            strangers = [f"{model}.{name}" for name in ours]
        elif within(module, model):
            strangers = [f"{model}.vawan"]
        else:
            continue
        known = {name for name in imports if any(within(name, other) for other in strangers)}
        assert not known, f"{module} imports {sorted(known)}"


def test_nobody_imports_the_shell():
    assert [path for path in source_files() if "cli" in imports_of(path)] == []


def test_an_import_against_the_arrows_would_be_found(tmp_path: Path):
    stray = tmp_path / "stray.py"
    stray.write_text("from exo2ego.training.trainer import train\n")
    (name,) = imports_of(stray)
    assert not any(within(name, package) for package in allowed_for("stores.stream"))
    assert not any(within(name, package) for package in allowed_for("exo2ego.model.wan"))
    assert any(within(name, package) for package in allowed_for("exo2ego.evaluation.sample"))


def test_every_file_says_what_may_live_in_it_and_has_a_name_that_tells():
    for path in source_files():
        assert path.stem not in NAMES_THAT_SAY_NOTHING, path
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} opens without a docstring"


def test_no_function_is_longer_than_sixty_lines():
    long = [
        f"{module_of(path)}.{node.name}"
        for path in source_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno > 60
    ]
    assert long == []


def test_the_shell_delays_heavy_imports():
    tree = ast.parse((ROOT / "cli.py").read_text())
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name) for node in top
    }
    assert {str(name).split(".")[0] for name in names} <= LIGHT


def test_no_file_catches_everything():
    for path in source_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                caught = getattr(node.type, "id", "everything" if node.type is None else "")
                assert caught not in {"everything", "Exception", "BaseException"}, path
