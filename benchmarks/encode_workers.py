"""One worker of encode-latents against two: threads of a process, processes of a scheduler."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from benchmarks.rows import Row, Spent, interleaved_seconds
from exo2ego.model.seeding import initial_weights_from
from pipeline.encode import encode_latents
from pipeline.ingest import ingest
from pipeline.simulate.root import simulate_root
from stores.recipe import ClipRecipe
from stores.schema import LATENT_CHANNELS

TAKES, SECONDS, CLIPS_A_TAKE = 4, 2.8, 2
HW, BASE_DIM, ROUNDS = (64, 64), 32, 2
"""A third of the published VAE's width: nearly all of the time goes into it all the same."""
_SECONDS_TO_START = 60
_THREADS = """
import json, os, sys, time
os.sched_setaffinity(0, json.loads(sys.argv[5]))
from pathlib import Path
from pipeline.encode import encode_latents
if __name__ == "__main__":
    index, store, vae, clips, cores = sys.argv[1:]
    began = time.perf_counter()
    encode_latents(Path(index), Path(store), vae_spec=vae, clips_per_shard=int(clips),
                   workers=len(json.loads(cores)))
    print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Work:
    """What all workers do: encode one index with one VAE, a take a shard."""

    folder: Path
    index: Path
    vae: Path


def worker_rows(folder: Path) -> list[Row]:
    """How much faster two workers are than one, each on a core of its own with one torch thread."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    names = ("threads of one process", "processes of a scheduler")
    if len(cores) < 2:
        return [Row(f"two workers per one, {name}", None, "", note="one core") for name in names]
    work, numbers = _prepare(folder), count()
    with ExitStack() as left:
        one, two = (left.enter_context(_cluster(folder, cores[:n])) for n in (1, 2))
        seconds = interleaved_seconds(
            {
                "threads 1": partial(_threads, work, numbers, cores[:1]),
                "threads 2": partial(_threads, work, numbers, cores),
                "processes 1": partial(_processes, work, numbers, one),
                "processes 2": partial(_processes, work, numbers, two),
            },
            ROUNDS,
        )
    rows = []
    for name, short in zip(names, ("threads", "processes"), strict=True):
        alone, both = seconds[f"{short} 1"], seconds[f"{short} 2"]
        note = f"{alone:.1f} s and {both:.1f} s for {TAKES * CLIPS_A_TAKE} clips"
        rows.append(Row(f"two workers per one, {name}", alone / both, "", 1.6, None, note))
    return rows


def _prepare(folder: Path) -> Work:
    work = Work(folder, folder / "clips.parquet", folder / "vae")
    root = simulate_root(
        folder / "root", takes=TAKES, seconds=SECONDS, seed=1, height=64, samples=1, faults=False
    )
    ingest(root.root, work.index, recipe=ClipRecipe(hw=HW), workers=1)
    with initial_weights_from(torch.Generator().manual_seed(0)):
        vae = AutoencoderKLWan(base_dim=BASE_DIM, z_dim=LATENT_CHANNELS)
    vae.save_pretrained(work.vae)
    return work


def _threads(work: Work, numbers: Iterator[int], cores: list[int]) -> Spent:
    """A process of its own, so that its affinity is that of all its threads."""
    script = work.folder / "encode_child.py"
    script.write_text(_THREADS)
    store = work.folder / f"{next(numbers)}.store"
    arguments = [work.index, store, work.vae, CLIPS_A_TAKE, json.dumps(cores)]
    told = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        env=_surroundings(),
    ).stdout
    return Spent(float(told.splitlines()[-1]), 0.0)


def _processes(work: Work, numbers: Iterator[int], scheduler: str) -> None:
    encode_latents(
        work.index,
        work.folder / f"{next(numbers)}.store",
        vae_spec=str(work.vae),
        clips_per_shard=CLIPS_A_TAKE,
        scheduler=scheduler,
    )


@contextmanager
def _cluster(folder: Path, cores: list[int]) -> Iterator[str]:
    """Address of a Dask scheduler with a worker of one thread on each of the cores."""
    about = folder / f"scheduler-{len(cores)}.json"
    started: list[subprocess.Popen[bytes]] = []
    plain = ["--no-dashboard", "--scheduler-file", str(about)]
    local = ["--host", "127.0.0.1", "--port", "0"]
    try:
        started.append(_dask("scheduler", [*plain, *local], set(os.sched_getaffinity(0))))
        waiting_since = time.monotonic()
        while not about.exists() or not about.read_text():
            if time.monotonic() - waiting_since > _SECONDS_TO_START:
                raise RuntimeError(f"no Dask scheduler after {_SECONDS_TO_START} s")
            time.sleep(0.1)
        started += [
            _dask("worker", [*plain, "--nthreads", "1", "--no-nanny"], {core}) for core in cores
        ]
        yield json.loads(about.read_text())["address"]
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()


def _dask(what: str, options: list[str], cores: set[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dask", what, *options],
        env=_surroundings() | {"OMP_NUM_THREADS": "1"},
        preexec_fn=partial(os.sched_setaffinity, 0, cores),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _surroundings() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
