"""Claims about the benchmarks' frame: what is measured is the same work, and is told as it is."""

import dataclasses
import math
import sys
import warnings
from contextlib import ExitStack
from mmap import PAGESIZE
from pathlib import Path

import av
import numpy as np
import orjson
import pytest
from PIL import Image
from torch import Tensor

from benchmarks.__main__ import find_benchmarks, main
from benchmarks.bar_chart import draw_rates
from benchmarks.clip_readers import SHAPES, our_stream, ours, same_bytes, taken_in_turns, write_raw
from benchmarks.contest import Contestant, Outcome
from benchmarks.encode import wanted_frames, write_video
from benchmarks.large_store import write_large_store
from benchmarks.machine import write_json
from benchmarks.markdown import table
from benchmarks.peer_processes import (
    SCRIPTS,
    Errand,
    Peer,
    PeerMissing,
    PeerReaders,
    environment,
    write_copy,
)
from benchmarks.ray_codec import blosc_settings, cost_of, stored_codec
from benchmarks.ray_packings import packings, readers_of
from benchmarks.rows import Row, Spent, interleaved, interleaved_seconds
from benchmarks.store_clips import write_store
from pipeline.video import probe
from stores.recipe import ClipRecipe
from stores.shard import CRC_BYTES
from stores.zarr_store import open_store


@pytest.mark.parametrize(
    ("row", "is_met", "says"),
    [
        (Row("rate", 0.6, "", at_least=0.5), True, "met"),
        (Row("rate", 0.4, "", at_least=0.5), False, "MISSED"),
        (Row("time", 3.0, "s", at_most=2.0), False, "<= 2 s"),
        (Row("speed", 3.0, "clips/s"), None, "3 clips/s"),
    ],
)
def test_a_row_says_whether_its_bar_is_met(row: Row, is_met: bool | None, says: str) -> None:
    assert row.is_met is is_met
    assert says in str(row)


def test_works_take_turns_and_the_first_round_does_not_count() -> None:
    turns: list[str] = []
    works = {name: lambda name=name: turns.append(name) for name in ("a", "b")}
    assert set(interleaved_seconds(works, 2)) == {"a", "b"}
    assert turns == ["a", "b"] * 3


def test_the_folders_benchmarks_are_found_and_others_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "ingest" in find_benchmarks()
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "no such benchmark: nothing" in capsys.readouterr().err


def bytes_of(batch: list[Tensor], row: int) -> bytes:
    return b"".join(array[row].numpy().tobytes() for array in batch)


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmarks") / "store"
    write_store(path, 5)
    return path


def test_the_floor_reads_the_bytes_that_ours_does(small_store: Path) -> None:
    numbers = [3, 0, 4]
    memory, mine = same_bytes(small_store, 3)(numbers), ours(open_store(small_store))(numbers)
    for row in range(len(numbers)):
        start, found = row * len(memory) // len(numbers), b""
        for shape in SHAPES.values():
            piece = 2 * math.prod(shape[1:])
            for k in range(shape[0]):
                at = start + k * (piece + CRC_BYTES)
                found += bytes(memory[at : at + piece])
            start += -(-shape[0] * (piece + CRC_BYTES) // PAGESIZE) * PAGESIZE
        assert found == bytes_of(mine, row)


def test_an_epoch_of_the_stream_can_be_had_again_and_again(small_store: Path) -> None:
    epoch = our_stream(open_store(small_store), 2, threads=2)
    assert [epoch(), epoch()] == [4, 4]


def test_threads_read_each_batch_once() -> None:
    seen: list[list[int]] = []
    batches = [[k] for k in range(50)]
    taken_in_turns([seen.append, seen.append, seen.append])(batches)
    assert sorted(seen) == batches


def test_a_ratio_is_taken_within_each_round_against_the_fastest_of_the_others() -> None:
    def spent(*seconds: float) -> tuple[Spent, ...]:
        return tuple(Spent(each, each) for each in seconds)

    readers = {name: Contestant(name, lambda: None, 12, "floor") for name in ("a", "b", "c")}
    outcome = Outcome(
        readers, {"a": spent(1, 2, 4), "b": spent(2, 6, 8), "c": spent(3, 3, 40)}
    )  # the machine got slower
    assert outcome.ratio("a", "b") == 2
    assert outcome.ratio("a", "b", "c") == 2
    assert outcome.ratio("a", "c") == 3
    assert outcome.rate("a") == 6


PLAIN_PEER = """
from taking_turns import main
def write(clips):
    (clips.folder / "copy").write_bytes(clips.raw.read_bytes())
def readers(clips):
    return {"backwards": lambda: map(clips.row, reversed(clips.order))}
if __name__ == "__main__":
    main("7", write, readers)
"""


def peer_of(folder: Path, code: str) -> Peer:
    (folder / "taking_turns.py").write_text((SCRIPTS / "taking_turns.py").read_text())
    (folder / "peer.py").write_text(code)
    return Peer("Plain", folder / "peer.py", Path(sys.executable))


def test_a_peer_in_another_process_reads_the_same_clips(tmp_path: Path) -> None:
    peer = peer_of(tmp_path, PLAIN_PEER)
    total = write_raw(tmp_path / "raw", 5)
    errand = Errand(tmp_path / "raw", tmp_path / "copies", 5, 2)
    write_copy(peer, errand)
    with ExitStack() as left:
        reading = PeerReaders(peer, errand, left)
        assert (reading.version, reading.sums) == ("7", {"backwards": total})
        spent = interleaved({"theirs": reading.readers["backwards"]}, 1)["theirs"]
    assert spent[0].cpu_seconds > 0
    assert (errand.copy_of(peer) / "copy").read_bytes() == (tmp_path / "raw").read_bytes()


def test_a_peer_that_cannot_be_imported_is_missing_with_its_reason(tmp_path: Path) -> None:
    peer = peer_of(tmp_path, "import no_such_reader")
    errand = Errand(tmp_path / "raw", tmp_path / "copies", 5, 2)
    with pytest.raises(PeerMissing, match="No module named 'no_such_reader'") as told:
        write_copy(peer, errand)
    assert "not measured: it writes with an error" in str(
        Row("Plain", None, "", note=str(told.value))
    )
    with ExitStack() as left, pytest.raises(PeerMissing, match=r"it ended: .*no_such_reader"):
        PeerReaders(peer, errand, left)


def test_a_peer_that_cannot_be_installed_is_missing_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "peer.txt").write_text("./no-such-wheel.whl")
    with pytest.raises(PeerMissing, match=r"installs with an error: .*no-such-wheel"):
        environment(tmp_path / "peer.txt", tmp_path / "environments")


def test_a_large_store_opens_and_its_clips_are_the_small_ones(
    small_store: Path, tmp_path: Path
) -> None:
    write_large_store(tmp_path / "large", 77, small_store, 5)
    small, large = open_store(small_store), open_store(tmp_path / "large")
    assert len(large.clip_ids) == 77
    assert large.row(large.clip_ids[-1]).take_name == "cmu_bike00002_2"
    ids = large.clip_ids[70:75]
    same = [small.clip_ids[row] for row in large.row_numbers("ego_latents", ids)]
    assert (large.read("ego_latents", ids) == small.read("ego_latents", same)).all()


def test_rows_and_machine_are_kept_and_drawn(tmp_path: Path) -> None:
    rows = [Row("floor, 1 thread", 9.0, "clips/s"), Row("ours", 8.0, "clips/s", 5.0)]
    write_json(tmp_path / "rows.json", {"read": rows})
    kept = orjson.loads((tmp_path / "rows.json").read_bytes())
    assert kept["rows"]["read"][1] | {"note": ""} == {
        **dataclasses.asdict(rows[1]), "is_met": True
    }  # fmt: skip
    assert kept["machine"]["cores"] >= 1
    draw_rates(rows, tmp_path / "rates.png", title="rates")
    with Image.open(tmp_path / "rates.png") as picture:
        assert picture.height > 2 * 30


RAYS = np.random.default_rng(0).normal(size=(3, 6, 8, 10)).astype(np.float16)
PACKINGS = {packing.name: packing for packing in packings()}


@pytest.mark.parametrize("name", PACKINGS)
def test_a_packing_gives_the_same_rays_to_us_and_to_those_it_names(
    name: str, tmp_path: Path
) -> None:
    cost = cost_of(PACKINGS[name], [RAYS])  # raises if a bit is another
    assert cost.ratio > 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3")
        readers = readers_of(PACKINGS[name], RAYS, tmp_path / "array")
    portable = not name.startswith(("difference", "PCodec"))
    assert ("tensorstore" in readers) is portable


def test_one_packing_is_the_stores_own(tmp_path: Path) -> None:
    stored = stored_codec(tmp_path, ClipRecipe())
    assert sum(blosc_settings(packing) == stored for packing in PACKINGS.values()) == 1


def test_the_frames_of_a_take_are_those_of_its_windows() -> None:
    recipe = ClipRecipe(frames=5, stride=2, window_step=6)
    assert wanted_frames(recipe, 15) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert wanted_frames(recipe, 14) == [0, 2, 4, 6, 8]


def test_a_video_is_as_long_as_asked_and_its_key_frames_are_far_apart(tmp_path: Path) -> None:
    write_video(tmp_path / "exo.mp4", (48, 64), 260, seed=0)
    assert probe(tmp_path / "exo.mp4").frames == 260
    with av.open(str(tmp_path / "exo.mp4")) as container:
        keys = [n for n, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    assert keys == [0, 250]


def test_a_table_tells_what_was_missed_and_what_was_not_measured() -> None:
    rows = [
        Row("rate", 1234.5, "clips/s"),
        Row("share", 0.4, "", 0.5),
        Row("A", None, "", note="no"),
    ]
    assert table(rows).splitlines()[2:] == [
        "| rate | 1,234 clips/s |  |  |",
        "| share | 0.4 | >= 0.5: **missed** |  |",
        "| A | not measured | | no |",
    ]
