"""Reading the store: random clips against a pread floor and other readers, bytes, opening."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.clip_readers import (
    Parts,
    ReadBatch,
    is_installed,
    one_file,
    ours,
    safetensors_a_clip,
    same_bytes,
    settle,
    tensorstore_zarr,
    torch_save_a_clip,
    webdataset_batches,
    zarr_python,
)
from benchmarks.rows import Row, Spent, interleaved, interleaved_seconds
from benchmarks.store_clips import EGO, EXO, RAYS, write_manifest, write_store
from stores.stream import ClipStream
from stores.zarr_store import open_store

CLIPS, BATCH, ROUNDS = 1024, 8, 11
SLOW_CLIPS = 256
"""Clips a round of readers so slow that a whole round of them would take seconds."""
MANIFEST_CLIPS = 20_000
ALL_CLIPS = 300_000
"""About what all categories of the dataset give at the default recipe."""
CORES = os.cpu_count() or 1
FLOOR, PLAIN, CHECKED = "pread floor", "ours, payload crc off", "ours (payload crc on)"
SAFETENSORS, ZARR = "safetensors, a file a clip", "zarr-python, our shards"
OTHERS = {
    "tensorstore": "tensorstore, our shards",
    "webdataset": "webdataset, shuffle buffer of 128",
    "datasets": "HF datasets",
    "litdata": "LitData",
    "streaming": "MosaicML streaming",
}
"""Readers that are no dependencies of ours, by the module that has to be there."""

Works = dict[str, tuple[int, Callable[[], object]]]
"""By name: clips that one call reads, and the call."""


def run() -> list[Row]:
    """All rows; about two minutes, 3 GB of disk for the time."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_store(folder / "store", CLIPS)
        works = _our_works(folder / "store", 1) | _our_works(folder / "store", CORES)
        works |= _other_works(folder)
        settle(folder)
        return [
            *_random_reads(works),
            *_align_stream(folder / "store"),
            *_resume(folder / "store"),
            *_opening(folder / "manifest"),
        ]


def _our_works(store: Path, threads: int) -> Works:
    """The floor and ours, on so many threads."""
    ending = "" if threads == 1 else f", {threads} threads"
    unchecked = open_store(store, threads=threads, check=False)
    return {
        FLOOR + ending: _work(same_bytes(store, BATCH, Parts(threads))),
        PLAIN + ending: _work(ours(unchecked)),
        CHECKED + ending: _work(ours(open_store(store, threads=threads))),
    }


def _other_works(folder: Path) -> Works:
    """The others, on one thread of ours; tensorstore and zarr-python add threads of their own."""
    one, store = Parts(1), folder / "store"
    works: Works = {
        "one file, one pread a clip": _work(one_file(folder, CLIPS, BATCH, one)),
        SAFETENSORS: _work(safetensors_a_clip(folder / "safetensors", CLIPS, one)),
        "torch.save, a file a clip": _work(torch_save_a_clip(folder / "pt", CLIPS, one)),
        ZARR: _work(zarr_python(store), SLOW_CLIPS),
    }
    if is_installed("tensorstore"):
        works[OTHERS["tensorstore"]] = _work(tensorstore_zarr(store, CORES))
    if is_installed("webdataset"):
        epoch = webdataset_batches(folder / "tars", CLIPS, BATCH)
        works[OTHERS["webdataset"]] = CLIPS, lambda: sum(1 for _ in epoch())
    return works


def _work(read: ReadBatch, clips: int = CLIPS) -> tuple[int, Callable[[], object]]:
    order = np.random.default_rng(0).permutation(CLIPS).tolist()

    def epoch() -> None:
        for first in range(0, clips, BATCH):
            read(order[first : first + BATCH])

    return clips, epoch


def _random_reads(works: Works) -> list[Row]:
    spent = interleaved({name: call for name, (_, call) in works.items()}, ROUNDS)
    rates = {name: _rates(works[name][0], spent[name]) for name in works}
    rows = [
        Row(name, median(rates[name]), "clips/s", note=_note(clips, spent[name], rates, name))
        for name, (clips, _) in works.items()
    ]
    for module, name in OTHERS.items():
        if name not in works:
            no_reader = "this benchmark has no reader of it"
            note = no_reader if is_installed(module) else "not installed"
            rows.append(Row(name, None, "clips/s", note=note))
    return rows + _bars(works, spent, rates)


def _bars(
    works: Works, spent: Mapping[str, tuple[Spent, ...]], rates: Mapping[str, list[float]]
) -> list[Row]:
    """What one thread is held to; more threads are printed with their share of their own floor."""
    cpu = _cpu_us(works[CHECKED][0], spent[CHECKED])
    return [
        Row("ours without payload crc, per floor", _ratio(rates[PLAIN], rates[FLOOR]), "", 0.7),
        Row("ours, per floor", _ratio(rates[CHECKED], rates[FLOOR]), "", 0.55),
        Row("ours, per safetensors", _ratio(rates[CHECKED], rates[SAFETENSORS]), "", 1.5),
        Row("ours, per zarr-python", _ratio(rates[CHECKED], rates[ZARR]), "", 10.0),
        Row("ours, CPU", cpu, "us a clip", None, 150.0),
    ]


def _rates(clips: int, spent: tuple[Spent, ...]) -> list[float]:
    return [clips / each.seconds for each in spent]


def _cpu_us(clips: int, spent: tuple[Spent, ...]) -> float:
    return 1e6 * median(each.cpu_seconds for each in spent) / clips


def _ratio(mine: list[float], others: list[float]) -> float:
    """Median over the rounds of the ratio within a round: what slows a round slows both."""
    return median(a / b for a, b in zip(mine, others, strict=True))


def _note(clips: int, spent: tuple[Spent, ...], rates: Mapping[str, list[float]], name: str) -> str:
    ending = f", {CORES} threads" if name.endswith("threads") else ""
    quarters = np.percentile(rates[name], [25, 75])
    return (
        f"{_ratio(rates[name], rates[FLOOR + ending]):.3f} of the floor, "
        f"{_cpu_us(clips, spent):.0f} us CPU a clip, "
        f"middle half {quarters[0]:,.0f} to {quarters[1]:,.0f}"
    )


def _align_stream(path: Path) -> list[Row]:
    """Bytes that the first stage's stream reads of the disk, per bytes that it needs."""
    what, counter = "Align's stream, bytes read per byte used", Path("/proc/self/io")
    if not counter.exists():
        return [Row(what, None, "", note="no /proc/self/io here")]
    store = open_store(path, threads=1)
    stream = ClipStream(store, (f"{EXO}[0]", f"{EGO}[0]", RAYS), batch_size=BATCH, seed=0)
    packed = sum(file.stat().st_size for file in (path / "arrays" / RAYS / "c").rglob("0"))
    used, before = 0, _bytes_read(counter)
    for step in range(CLIPS // BATCH):
        batch = stream.batch_at(step)
        used += sum(batch[read].nbytes for read in (f"{EXO}[0]", f"{EGO}[0]"))
    read = _bytes_read(counter) - before
    stream.close()
    return [
        Row(what, read / (used + packed), "", None, 1.1, f"{read / CLIPS / 1024:.0f} KiB a clip")
    ]


def _bytes_read(counter: Path) -> int:
    return int(counter.read_text().split()[1])  # "rchar: N": all that read calls gave


def _resume(path: Path) -> list[Row]:
    store, reads = open_store(path, threads=1), (EXO, EGO)
    first = ClipStream(store, reads, batch_size=BATCH, seed=0)
    state = first.state_dict() | {"step": CLIPS // BATCH // 2}

    def resume() -> None:
        stream = ClipStream(store, reads, batch_size=BATCH, seed=0)
        stream.load_state_dict(state)
        next(stream)
        stream.close()

    seconds = interleaved_seconds({"resume": resume}, ROUNDS)["resume"]
    first.close()
    return [
        Row("stream resumed at half an epoch, to its first batch", 1e3 * seconds, "ms", None, 100.0)
    ]


def _opening(path: Path) -> list[Row]:
    path.mkdir()
    write_manifest(path, MANIFEST_CLIPS)
    seconds = interleaved_seconds({"open": lambda: open_store(path)}, 3)["open"]
    store = open_store(path)
    began = time.perf_counter()
    stream = ClipStream(store, (EXO, EGO), batch_size=BATCH, seed=0)
    stream.ids_at(MANIFEST_CLIPS // BATCH // 2)
    order = time.perf_counter() - began
    stream.close()
    size = sum(file.stat().st_size for file in (path / "versions").iterdir())
    scale = ALL_CLIPS / MANIFEST_CLIPS
    note = f"{size / 1e6:.0f} MB; linear, so about {scale * seconds:.1f} s for {ALL_CLIPS:,}"
    return [
        Row(f"open_store, {MANIFEST_CLIPS:,} clips", seconds, "s", note=note),
        Row(f"stream made and ordered, {MANIFEST_CLIPS:,} clips", 1e3 * order, "ms"),
    ]
