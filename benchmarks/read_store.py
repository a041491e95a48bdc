"""Reading the store: random clips against a pread floor and other readers, bytes, opening."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.clip_readers import (
    ReadBatch,
    is_installed,
    one_file,
    our_stream,
    ours,
    safetensors_a_clip,
    same_bytes,
    settle,
    taken_in_turns,
    tensorstore_zarr,
    torch_save_a_clip,
    webdataset_batches,
    write_raw,
    zarr_python,
)
from benchmarks.contest import Contest, Contestant, Outcome
from benchmarks.large_store import large_store_rows
from benchmarks.peer_processes import PEERS, Errand, PeerMissing, PeerReaders, write_copy
from benchmarks.rows import Row
from benchmarks.store_clips import EGO, EXO, RAYS, write_store
from stores.stream import ClipStream
from stores.zarr_store import open_store

CLIPS, BATCH, ROUNDS, THREADS = 1024, 8, 11, (1, 2)
SLOW_CLIPS = 256
"""Clips a turn of readers so slow that a whole epoch of them would take seconds."""
CORES = os.cpu_count() or 1
FLOOR = "floor: plain pread of the same bytes"
SAFETENSORS, ZARR = "safetensors", "zarr-python"


def run() -> list[Row]:
    """All rows; about five minutes, 6 GB of disk for the time."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as name, ExitStack() as left:
        folder, contest = Path(name), Contest()
        write_store(folder / "store", CLIPS)
        for threads in THREADS:
            _enter_ours(contest, folder / "store", threads)
        _enter_others(contest, folder)
        _enter_peers(contest, folder, left)
        outcome = contest.hold(ROUNDS)
        return [
            *_reader_rows(contest, outcome),
            *_bars(contest, outcome),
            *_align_stream(folder / "store"),
            *large_store_rows(folder / "large", folder / "store", CLIPS, BATCH),
        ]


def _on(name: str, threads: int) -> str:
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def _read(check: bool) -> str:
    return f"ours, payload crc {'on' if check else 'off'}"


def _stream(check: bool) -> str:
    return f"our training stream, payload crc {'on' if check else 'off'}"


def _batches(clips: int) -> list[list[int]]:
    order = np.random.default_rng(0).permutation(CLIPS).tolist()[:clips]
    return [order[first : first + BATCH] for first in range(0, clips, BATCH)]


def _turn(read: ReadBatch, clips: int = CLIPS) -> Callable[[], None]:
    batches = _batches(clips)

    def turn() -> None:
        for numbers in batches:
            read(numbers)

    return turn


def _enter_ours(contest: Contest, path: Path, threads: int) -> None:
    """The floor and ours on so many threads: plain reads, and the training stream's."""
    floor = _on(FLOOR, threads)
    read_all, batches = (
        taken_in_turns([same_bytes(path, BATCH) for _ in range(threads)]),
        _batches(CLIPS),
    )
    contest.readers.append(Contestant(floor, lambda: read_all(batches), CLIPS, floor))
    for check in (False, True):
        store = open_store(path, check=check)
        turn = partial(taken_in_turns([ours(store)] * threads), batches)
        contest.readers.append(Contestant(_on(_read(check), threads), turn, CLIPS, floor))
        epoch = our_stream(store, BATCH, threads)
        contest.readers.append(Contestant(_on(_stream(check), threads), epoch, CLIPS, floor))


def _enter_others(contest: Contest, folder: Path) -> None:
    """Readers in this process, on one thread; tensorstore and zarr-python add their own."""

    def enter(who: str, how: str, turn: Callable[[], object], clips: int = CLIPS) -> None:
        name = f"{who}, {how}"
        contest.readers.append(
            Contestant(name, turn, clips, _on(FLOOR, 1), who, version(who.removesuffix("-python")))
        )

    write_raw(folder / "clips.bin", CLIPS)
    raw = one_file(folder / "clips.bin", BATCH)
    contest.readers.append(
        Contestant("one raw file, one pread a clip", _turn(raw), CLIPS, _on(FLOOR, 1))
    )
    files = safetensors_a_clip(folder / "safetensors", CLIPS, BATCH)
    enter(SAFETENSORS, "a file a clip", _turn(files))
    enter(
        "torch", "torch.save, a file a clip", _turn(torch_save_a_clip(folder / "pt", CLIPS, BATCH))
    )
    enter(ZARR, "our shards", _turn(zarr_python(folder / "store"), SLOW_CLIPS), SLOW_CLIPS)
    if is_installed("tensorstore"):
        enter("tensorstore", "our shards", _turn(tensorstore_zarr(folder / "store", CORES)))
    else:
        contest.missing["tensorstore"] = "not installed"
    if is_installed("webdataset"):
        epoch = webdataset_batches(folder / "tars", CLIPS, BATCH)
        enter("webdataset", "tars, shuffle buffer of 128", lambda: sum(1 for _ in epoch()))
    else:
        contest.missing["webdataset"] = "not installed"


def _enter_peers(contest: Contest, folder: Path, left: ExitStack) -> None:
    """Readers in processes and environments of their own; all files are then in the page cache."""
    errand, written = Errand(folder / "clips.bin", folder / "peers", CLIPS, BATCH), []
    for peer in PEERS:
        try:
            write_copy(peer, errand)
            written.append(peer)
        except PeerMissing as missing:
            contest.missing[peer.who] = str(missing)
    settle(folder)
    for peer in written:
        try:
            reading = PeerReaders(peer, errand, left)
        except PeerMissing as missing:
            contest.missing[peer.who] = str(missing)
            continue
        contest.readers += [
            Contestant(f"{peer.who}, {how}", turn, CLIPS, _on(FLOOR, 1), peer.who, reading.version)
            for how, turn in reading.readers.items()
        ]


def _reader_rows(contest: Contest, outcome: Outcome) -> list[Row]:
    rows = [
        Row(reader.name, outcome.rate(reader.name), "clips/s", note=outcome.told(reader.name))
        for reader in contest.readers
    ]
    return rows + [Row(who, None, "clips/s", note=why) for who, why in contest.missing.items()]


def _bars(contest: Contest, outcome: Outcome) -> list[Row]:
    """What ours is held to: shares of the floor at equal threads; else one thread, crc on.

    The training stream has no bar: its batches are in flight in several pieces of memory, where
    the floor writes into one that stays in the processor's cache."""
    mine, unchecked = _on(_read(True), 1), _on(_read(False), 1)
    pairs = [(name, threads) for name in (_read, _stream) for threads in THREADS]
    rows = [
        Row(
            f"{reader}, per floor",
            outcome.ratio(reader, _on(FLOOR, threads)),
            "",
            bar if name is _read else None,
        )
        for name, threads in pairs
        for check, bar in ((False, 0.7), (True, 0.55))
        for reader in [_on(name(check), threads)]
    ]
    fastest = max(contest.others, key=outcome.rate)
    for reader in (mine, unchecked):
        share = outcome.ratio(reader, *contest.others)
        rows.append(Row(f"{reader}, per fastest other", share, "", 1.0, None, fastest))
    for who, bar in (("LitData", 1.5), (SAFETENSORS, 1.5), (ZARR, 10.0)):
        ways = contest.of(who)
        share = outcome.ratio(mine, *ways) if ways else None
        rows.append(Row(f"{mine}, per {who}", share, "", bar, None, contest.missing.get(who, "")))
    return [*rows, Row(f"{mine}, CPU", outcome.cpu_us(mine), "us a clip", None, 150.0)]


def _align_stream(path: Path) -> list[Row]:
    """Bytes that the first stage's stream reads of the disk, per bytes that it needs."""
    what, counter = "Align's stream, bytes read per byte used", Path("/proc/self/io")
    if not counter.exists():
        return [Row(what, None, "", note="no /proc/self/io here")]
    stream = ClipStream(
        open_store(path), (f"{EXO}[0]", f"{EGO}[0]", RAYS), batch_size=BATCH, seed=0
    )
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
