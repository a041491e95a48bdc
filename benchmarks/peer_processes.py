"""Other projects' readers, each in a process and an environment of its own, made on demand."""

import json
import subprocess
import sys
import venv
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.clip_readers import SHAPES
from benchmarks.rows import Spent
from stores.zarr_store import CLIPS_PER_SHARD

HERE = Path(__file__).parent
SCRIPTS, ENVIRONMENTS = HERE / "peers", HERE / ".venvs"
_SECONDS_TO_LEAVE = 20
_INSTALLED = "installed.txt"
"""In an environment: a copy of the versions, once all of them are there."""


class PeerMissing(RuntimeError):
    """A peer that cannot be installed, imported or made to read; the text says why."""


@dataclass(frozen=True)
class Peer:
    """Another project: its name, the script that reads with it, and the Python that runs that.

    Without a Python it gets an environment of its own, made on demand."""

    who: str
    script: Path
    python: Path | None = None

    def command(self, task: str, errand: "Errand") -> list[str]:
        """The command line of a task of `peers/taking_turns.py`. Raises PeerMissing."""
        python = self.python or environment(self.script.with_suffix(".txt"), ENVIRONMENTS)
        return [str(python), str(self.script), task, errand.spelled(self)]


PEERS = (
    Peer("HF datasets", SCRIPTS / "hf_datasets.py"),
    Peer("LitData", SCRIPTS / "lit_data.py"),
    Peer("MosaicML streaming", SCRIPTS / "mosaic_streaming.py"),
)


@dataclass(frozen=True)
class Errand:
    """What all peers are asked for: the clips of one raw file, in one order."""

    raw: Path
    """Of each clip the arrays of `clip_readers.SHAPES`, one behind the other."""
    folder: Path
    """For the peers' own copies."""
    clips: int
    batch: int
    seed: int = 0

    def copy_of(self, peer: Peer) -> Path:
        """Where the peer has its copy of the clips."""
        return self.folder / peer.script.stem

    def spelled(self, peer: Peer) -> str:
        """The errand as a peer's script takes it."""
        return json.dumps(
            {
                "raw": str(self.raw),
                "folder": str(self.copy_of(peer)),
                "count": self.clips,
                "batch": self.batch,
                "per_shard": CLIPS_PER_SHARD,
                "shapes": SHAPES,
                "seed": self.seed,
            }
        )


class PeerReaders:
    """A running peer, ready to read."""

    def __init__(self, peer: Peer, errand: Errand, left: ExitStack):
        """Starts the peer on what `write_copy` wrote; it ends with `left`. Raises PeerMissing."""
        # a file: a pipe that is full would block the peer
        self._words = errand.copy_of(peer).with_suffix(".words")
        with self._words.open("w") as words:
            self._process = subprocess.Popen(
                peer.command("read", errand),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
            )
        left.callback(self._leave)
        about = self._answer()
        self.version: str = about["version"]
        self.sums: dict[str, int] = about["readers"]
        """By reader: the sum of the crc32 of every array that an epoch gives."""
        self.readers = {name: partial(self._read, name) for name in self.sums}
        """The ways to read: a call reads all clips once, and says what that took over there."""

    def _read(self, reader: str) -> Spent:
        print(json.dumps(reader), file=self._process.stdin, flush=True)
        return Spent(**self._answer())

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise PeerMissing(f"it ended: {_last_line(self._words.read_text())}")
        return json.loads(line)

    def _leave(self) -> None:
        try:
            self._process.communicate(timeout=_SECONDS_TO_LEAVE)  # closes its input: it ends
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def write_copy(peer: Peer, errand: Errand) -> None:
    """Has the peer copy the clips into its own format. Raises PeerMissing."""
    command = peer.command("write", errand)
    errand.copy_of(peer).mkdir(parents=True)
    _run(command, "writes")


def environment(pins: Path, folder: Path) -> Path:
    """Python of the environment below `folder` that has just the versions of `pins`.

    It is made if it is missing or has others, and shares nothing with ours, torch neither: some
    peers need another numpy, or torchvision, which must not get into ours. Raises PeerMissing if
    pip refuses."""
    python, installed = folder / pins.stem / "bin" / "python", folder / pins.stem / _INSTALLED
    wanted = pins.read_text()
    if installed.exists() and installed.read_text() == wanted:
        return python
    print(f"installing {pins.name} ...", file=sys.stderr, flush=True)
    venv.create(folder / pins.stem, with_pip=True, symlinks=True, clear=True)
    _run([str(python), "-m", "pip", "install", "-q", "-r", str(pins)], "installs")
    installed.write_text(wanted)
    return python


def _run(command: list[str], does: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerMissing(f"it {does} with an error: {_last_line(done.stderr)}")


def _last_line(told: str) -> str:
    return (told.strip().splitlines() or ["no word"])[-1]
