"""`python -m benchmarks [name ...]`: runs the benchmarks of this folder, and prints their rows."""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import benchmarks
from benchmarks.bar_chart import draw_rates
from benchmarks.machine import machine_name, write_json
from benchmarks.markdown import write_markdown
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
    parser.add_argument("--json", type=Path, help="also write rows and machine to this file")
    parser.add_argument("--markdown", type=Path, help="also write the rows as tables for docs/")
    parser.add_argument("--plot", type=Path, help="also draw the readers' rates: a PNG")
    options = parser.parse_args(arguments)
    asked = options.name or list(found)
    if unknown := sorted(set(asked) - set(found)):
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(found)}")
    rows = {}
    for name in asked:
        print(f"{name} ({Path(benchmarks.__path__[0]).name}/{name}.py)", flush=True)
        rows[name] = found[name]()
        for row in rows[name]:
            print(f"  {row}", flush=True)
        if options.json:
            write_json(options.json, rows)
        if options.markdown:
            write_markdown(options.markdown, rows)
    everything = [row for some in rows.values() for row in some]
    if options.plot:
        draw_rates(everything, options.plot, title=f"Random clips a second ({machine_name()})")
    return int(any(row.is_met is False for row in everything))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
