"""`python -m benchmarks [name ...]`: runs the benchmarks of this folder, and prints their rows."""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import benchmarks
from benchmarks.rows import Row

Run = Callable[[], list[Row]]


def find_benchmarks() -> dict[str, Run]:
    """The function `run` of every module of the folder that has one, by the module's name."""
    names = sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    modules = {
        name: importlib.import_module(f"benchmarks.{name}") for name in names if name[0] != "_"
    }
    return {name: module.run for name, module in modules.items() if hasattr(module, "run")}


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 if every bar is met, 1 if one is not."""
    found = find_benchmarks()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(found)}; none: all of them")
    asked = parser.parse_args(arguments).name or list(found)
    if unknown := sorted(set(asked) - set(found)):
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(found)}")
    met = True
    for name in asked:
        print(f"{name} ({Path(benchmarks.__path__[0]).name}/{name}.py)", flush=True)
        for row in found[name]():
            print(f"  {row}", flush=True)
            met = met and row.is_met is not False
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
