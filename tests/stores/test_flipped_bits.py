"""Claims about one flipped bit, in each kind of file: right numbers, or a fault; never other ones.

`EXO2EGO_FLIPS=600 pytest -s` flips more bits of the large files and prints how each ended: the
table of docs/faults.md.
"""

import os
import random
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.quarantine import FailedClips, read_rejects, write_rejects
from stores.arrays import grow_group
from stores.errors import StoreFault
from stores.fork import Origin, read_origin
from stores.history import log
from stores.journal import FinishedShard, begin_run, read_entries, write_entry
from stores.lock import write_lock
from stores.schema import ARRAYS, DERIVED
from stores.tar_store import export_tar, import_tar
from stores.verify import verify_store
from stores.zarr_store import next_shard, open_store

GOLDEN = Path(__file__).parent / "golden"
MOST = int(os.environ.get("EXO2EGO_FLIPS", "50"))
"""Bits flipped in a shard, a manifest or a part of a tar; a small file has one in every byte."""
SMALL_BYTES = 900
Rows = dict[tuple[str, str], bytes]
Probe = Callable[[Path], bool]
"""Uses the store; True if all was as it is written, False if what is wrong was named."""


def rows_of(path: str | Path) -> Rows:
    """Every row of the store's version, by array and clip."""
    store = open_store(path)
    found = {}
    for clip in store.rows:
        for array in (name for name in ARRAYS if clip.rows[name] >= 0):
            found[array, clip.clip_id] = store.read(array, [clip.clip_id]).tobytes()
    return found


def derived_of(path: Path) -> dict[str, bytes]:
    """All derived rows, by array."""
    store = open_store(path)
    derived = store.derived("first_frames")
    return {name: derived.read(name, store.clip_ids).tobytes() for name in DERIVED["first_frames"]}


RIGHT = rows_of(GOLDEN / "zarr.store")
"""`test_golden` holds that these are the numbers that were written."""
RIGHT_DERIVED = derived_of(GOLDEN / "zarr.store")
NOTE = FinishedShard(7, ("golden_a-f000000",), ("00",), {"ego_latents": ["ff"]}, {})
REJECT = FailedClips("take", ("a", "b"), "the video is cut", 2)


@pytest.fixture(scope="module")
def tally() -> Iterator[dict[str, Counter[str]]]:
    counts: dict[str, Counter[str]] = {}
    yield counts
    for kind, ended in counts.items():
        print(f"\n{kind}: {sum(ended.values())} flipped, {dict(ended)}", end="")


@pytest.fixture(scope="module")
def zarr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the golden store, with all that writers and forks leave beside it."""
    path = shutil.copytree(GOLDEN / "zarr.store", tmp_path_factory.mktemp("flips") / "a.store")
    write_entry(path / "journal", NOTE)
    begin_run(path / "journal", 12)
    origin = Origin(store="ab" * 32, recipe_digest="cd" * 32)
    (path / "origin.json").write_text(origin.model_dump_json(indent=2))
    write_rejects(path, [REJECT])
    return path


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips in one tar: the middle one is no witness when the tar is opened."""
    out = tmp_path_factory.mktemp("flips") / "a.tars"
    export_tar(open_store(GOLDEN / "zarr.store"), out, clips_per_tar=3)
    return out


def flips(path: Path, offsets: list[int]) -> Iterator[int]:
    """Flips one bit of the byte at each offset, one at a time; the file is whole in the end."""
    whole, draw = path.read_bytes(), random.Random(path.name)
    try:
        for offset in offsets:
            data = bytearray(whole)
            data[offset] ^= 1 << draw.randrange(8)
            path.write_bytes(bytes(data))
            yield offset
    finally:
        path.write_bytes(whole)


def some_of(file: Path) -> list[int]:
    """All offsets of a small file that people could read, and a sample of any other."""
    every = range(file.stat().st_size)
    if len(every) <= SMALL_BYTES and (file.suffix == ".json" or file.name in ("HEAD", "run")):
        return list(every)
    return random.Random(file.name).sample(every, min(MOST, len(every)))


def try_all(store: Path, file: Path, probe: Probe, offsets: list[int] | None = None) -> Counter:
    """How the probe ended at each flip: right, named by verify, or a fault. Nothing else passes."""
    ended: Counter[str] = Counter()
    for _ in flips(file, some_of(file) if offsets is None else offsets):
        try:
            ended["right" if probe(store) else "named by verify"] += 1
        except StoreFault as fault:
            assert fault.fix and str(fault.where)
            ended["fault"] += 1
    return ended


def reads_right(path: Path) -> bool:
    """Every row is read, and right: a Zarr store has checksums."""
    assert rows_of(path) == RIGHT
    log(path)
    return not verify_store(open_store(path)).damaged


def reads_right_or_verify_says(path: Path) -> bool:
    """A tar has no checksums: what is read may be wrong, and is named by verify then."""
    got, report = rows_of(path), verify_store(open_store(path))
    wrong = {key for key, row in got.items() if RIGHT[key] != row}
    assert got.keys() == RIGHT.keys()
    assert {(row.array, row.clip_id) for row in report.damaged} >= wrong
    return not report.damaged


def derived_right(path: Path) -> bool:
    assert derived_of(path) == RIGHT_DERIVED
    return True


def tags_right(path: Path) -> bool:
    tagged = next(entry for entry in log(GOLDEN / "zarr.store") if entry.tags)
    assert open_store(f"{path}@paper-v1").hash == tagged.hash
    return True


def notes_right(path: Path) -> bool:
    assert read_entries(path / "journal") == [NOTE]
    return True


def numbers_stay_claimed(path: Path) -> bool:
    before = (path / "journal" / "run").read_bytes()
    assert begin_run(path / "journal", 0).first_shard >= 12
    (path / "journal" / "run").write_bytes(before)
    return True


def lock_is_free(path: Path) -> bool:
    with write_lock(path):
        return True


def origin_is_read(path: Path) -> bool:
    return read_origin(path) is not None


def rejects_are_read(path: Path) -> bool:
    return len(read_rejects(path)) == 1


def no_number_is_used_twice(path: Path) -> bool:
    assert next_shard(path) >= 3  # the golden store has shards 0 to 2
    grow_group(path / "arrays", ARRAYS, 6)
    return True


KINDS: dict[str, tuple[str, Probe]] = {
    "store.json": ("store.json", reads_right),
    "HEAD": ("HEAD", reads_right),
    "record of the version": ("versions/1ab3*.json", reads_right),
    "manifest": ("versions/1ab3*.parquet", reads_right),
    "tags.json": ("tags.json", tags_right),
    "origin.json": ("origin.json", origin_is_read),
    "an array's zarr.json, when reading": ("arrays/ego_rays/zarr.json", reads_right),
    "an array's zarr.json, when writing": ("arrays/ego_rays/zarr.json", no_number_is_used_twice),
    "journal/<shard>.json": ("journal/000007.json", notes_right),
    "journal/run": ("journal/run", numbers_stay_claimed),
    "rejects.json": ("rejects.json", rejects_are_read),
    "derived.json": ("derived/*/derived.json", derived_right),
    "derived rows/<shard>.json": ("derived/*/rows/000000.json", derived_right),
    "derived shard": ("derived/*/condition/c/0/0/0/0/0", derived_right),
    **{f"shard of {name}": (f"arrays/{name}/c/1/*", reads_right) for name in ARRAYS},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_of_a_store_gives_right_numbers_or_a_fault(
    zarr: Path, tally: dict[str, Counter[str]], kind: str
) -> None:
    pattern, probe = KINDS[kind]
    (found,) = zarr.glob(pattern)
    (file,) = [found] if found.is_file() else [p for p in found.rglob("*") if p.is_file()]
    ended = tally[kind] = try_all(zarr, file, probe)
    assert reads_right(zarr) and sum(ended.values()) >= 40
    if kind.startswith("shard of") or kind in ("manifest", "HEAD"):
        assert ended["fault"] >= sum(ended.values()) - 1  # HEAD's line feed may be another space
    if kind.startswith("journal/"):
        assert ended.keys() == {"fault"}


def test_a_flipped_bit_of_a_lock_that_was_left_never_lets_a_traceback_out(
    tmp_path: Path, tally: dict[str, Counter[str]]
) -> None:
    ended: Counter[str] = Counter()
    with write_lock(tmp_path):
        text = (tmp_path / "lock").read_bytes()
    (tmp_path / "lock").write_bytes(text)
    for offset in range(len(text)):
        (tmp_path / "lock").write_bytes(text)
        ended += try_all(tmp_path, tmp_path / "lock", lock_is_free, [offset])
    tally["lock that was left behind"] = ended
    assert ended["fault"] and ended["right"]  # a host's letter, and a digit of the time


def regions(path: Path) -> dict[str, list[int]]:
    """Offsets of a tar's bytes, by what they are."""
    found: dict[str, list[int]] = {}

    def add(kind: str, first: int, past: int) -> None:
        found.setdefault(kind, []).extend(range(first, past))

    with tarfile.open(path) as tar:
        for member in tar:
            data, past = member.offset_data, member.offset_data + member.size
            add("header", member.offset, data)
            if member.name.endswith(".json"):
                add("description", data, past)
            else:
                add("npy header", data, data + 128)
                add("payload", data + 128, past)
            end = past + -past % tarfile.BLOCKSIZE
            add("padding", past, end)
    add("padding", end, path.stat().st_size)
    return found


REGIONS = pytest.mark.parametrize(
    "region", ["header", "description", "npy header", "payload", "padding"]
)


@REGIONS
def test_a_flipped_bit_of_a_tar_gives_right_numbers_or_is_named(
    tars: Path, tally: dict[str, Counter[str]], region: str
) -> None:
    file = tars / "shard-000000.tar"
    offsets = random.Random(region).sample(regions(file)[region], min(MOST, 250))
    ended = tally[f"tar: {region}"] = try_all(tars, file, reads_right_or_verify_says, offsets)
    if region in ("payload", "npy header"):
        assert not ended["right"]
    if region in ("description", "padding"):
        assert ended.keys() == {"right"}


@REGIONS
def test_an_import_of_a_tar_with_a_flipped_bit_is_refused_or_has_the_hash(
    tars: Path, tmp_path: Path, tally: dict[str, Counter[str]], region: str
) -> None:
    file, name = tars / "shard-000000.tar", open_store(tars).hash

    def imports(path: Path) -> bool:
        shutil.rmtree(tmp_path / "b.store", ignore_errors=True)
        assert import_tar(path, tmp_path / "b.store") == name
        return reads_right(tmp_path / "b.store")

    offsets = random.Random(region).sample(regions(file)[region], 6)
    ended = tally[f"tar, imported: {region}"] = try_all(tars, file, imports, offsets)
    assert ended.keys() == {"right" if region == "padding" else "fault"}


@pytest.mark.parametrize("name", ["index.parquet", "store.json", "HEAD"])
def test_a_flipped_bit_beside_the_tars_gives_right_numbers_or_a_fault(
    tars: Path, tally: dict[str, Counter[str]], name: str
) -> None:
    ended = tally[f"tars: {name}"] = try_all(tars, tars / name, reads_right_or_verify_says)
    if name == "index.parquet":
        assert ended.keys() == {"right"}  # it signs its offsets, and is made again
