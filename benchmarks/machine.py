"""What a run was measured on, and its rows as JSON: figures are nothing without it."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from benchmarks.rows import Row

_LIBRARIES = ("numpy", "torch", "zarr", "numcodecs", "pyarrow", "awscrt", "blake3", "diffusers")
_LOAD = Path("/proc/loadavg")


def machine() -> dict[str, Any]:
    """The processor, how many cores this process may use, memory, load, and versions."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": _cores(),
        "memory_gib": round(pages / 2**30, 1),
        "load_average": _LOAD.read_text().split()[:3] if _LOAD.exists() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def machine_name() -> str:
    """The processor and the cores, for a picture's title."""
    return f"{_processor()}, {_cores()} cores"


def write_json(path: Path, rows: Mapping[str, Sequence[Row]]) -> None:
    """All rows by the name of their benchmark, each with its verdict, and the machine."""
    plain = {
        name: [asdict(row) | {"is_met": row.is_met} for row in some] for name, some in rows.items()
    }
    about = {"machine": machine(), "rows": plain}
    path.write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _processor() -> str:
    try:
        told = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    return lines.get("Model name", "").strip() or platform.machine()
