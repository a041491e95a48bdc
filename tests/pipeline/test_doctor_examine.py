"""The doctor's round: its page, its numbers, its second run, and what it flags."""

import math
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import zarr

from pipeline.doctor.examine import DoctorReport, examine
from pipeline.doctor.finding import Stream, TakeFinding
from pipeline.doctor.job import job_size
from pipeline.doctor.leaks import split_leaks
from pipeline.doctor.page import Examined, page
from pipeline.doctor.sync import Offset, SyncFinding
from pipeline.ingest import ingest
from pipeline.rejects import Reject
from stores.index import ClipIndex, read_index
from stores.recipe import ClipRecipe
from stores.schema import ARRAYS
from stores.version import StoreRecipe, VaeRecipe
from stores.zarr_store import create_store

RECIPE = ClipRecipe(frames=5, hw=(32, 48), window_step=20)


@pytest.fixture
def index(root: Any, tmp_path: Path) -> Path:
    """The clips of three takes: two of one participant, in two splits; one is refused."""
    root.add("cmu_bike01_2")
    root.add("utokyo_pcr_2001_31_8", category="covid", split="test")
    root.add("nus_cpr_12_1", category="cpr", cams=("cam01", "cam02"))
    out = tmp_path / "work" / "clips.parquet"
    ingest(root.write(), out, recipe=RECIPE)
    return out


def round_of(index: Path | ClipIndex, folder: Path, **options: Any) -> DoctorReport:
    options = {"check_sync": False, "encode_clips_per_second": 0.5} | options
    rejects = folder / "rejects.parquet"
    return examine(index, rejects, folder / "ingest.html", **options)


class Links(HTMLParser):
    """Every address and every element of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.elements: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]


def finding(name: str, **changes: Any) -> TakeFinding:
    plain: dict[str, Any] = {
        "take_name": name, "category": "bike", "split": "train", "clips": 3, "gaps": 1,
        "covered": 0.5, "in_view": 0.9, "sheet": "a.jpg", "is_new": True, "sync": None,
        "streams": (Stream("cam01", "a.mp4", 90, 30.0, (36, 64), ""),),
    }  # fmt: skip
    return TakeFinding(**(plain | changes))


def test_every_take_gets_a_sheet_and_the_page_shows_it(index: Path):
    report = round_of(index, index.parent)
    links = Links()
    links.feed(report.page.read_text())
    sheets = [address for address in links.addresses if address.endswith(".jpg")][-2:]
    assert report.takes == report.sheets_new == len(set(sheets)) == 2
    assert all((index.parent / sheet).stat().st_size > 2000 for sheet in sheets)


def test_a_second_run_draws_nothing_anew_and_writes_the_same_page(index: Path):
    first = round_of(index, index.parent)
    before = {path: path.stat().st_mtime_ns for path in index.parent.glob("*_sheets/*.jpg")}
    text = first.page.read_text()
    second = round_of(read_index(index), index.parent)
    after = {path: path.stat().st_mtime_ns for path in index.parent.glob("*_sheets/*.jpg")}
    assert second.sheets_new == 0 and before == after
    assert second.page.read_text() == text


def test_a_video_that_was_fetched_again_is_drawn_again(index: Path, make_mp4: Any):
    round_of(index, index.parent)
    clips = read_index(index)
    video = Path(clips.root) / clips.rows[0].present[0].video
    video.write_bytes(make_mp4((36, 64), 49))
    report = round_of(index, index.parent)
    assert report.sheets_new == 1
    assert len(report.to_look_at) == 1 and "49, 50 frames" in report.to_look_at[0]


def test_a_video_that_is_gone_is_told_and_stops_nothing(index: Path):
    clips = read_index(index)
    (Path(clips.root) / clips.rows[0].ego.video).unlink()
    report = round_of(index, index.parent)
    assert report.takes == 2 and "no such file" in report.to_look_at[0]


def test_the_page_asks_nothing_from_elsewhere_and_runs_nothing(index: Path):
    links = Links()
    links.feed(round_of(index, index.parent, check_sync=True).page.read_text())
    assert not {"script", "link", "iframe", "object"} & set(links.elements)
    assert not [address for address in links.addresses if ":" in address or "//" in address]


def test_the_page_counts_rejects_by_reason(index: Path):
    report = round_of(index, index.parent)
    text = report.page.read_text()
    assert "too_few_exos" in text and "nus_cpr_12_1" in text


def test_sync_that_was_checked_is_kept_for_the_next_run(index: Path):
    round_of(index, index.parent, check_sync=True)
    kept = sorted(index.parent.glob("*_sheets/*.json"))
    found = [SyncFinding.model_validate_json(path.read_bytes()) for path in kept]
    assert len(found) == 2 and not any(finding.exo.clear for finding in found)
    before = [path.stat().st_mtime_ns for path in kept]
    round_of(index, index.parent, check_sync=True)
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_participant_in_two_splits_is_found(index: Path):
    report = round_of(index, index.parent)
    (leak,) = report.leaks
    assert (leak.kind, leak.name) == ("participant", "387")
    assert leak.takes == {"test": ("utokyo_pcr_2001_31_8",), "train": ("cmu_bike01_2",)}


def test_a_capture_in_one_split_and_a_nameless_participant_are_no_leak(index: Path):
    rows = read_index(index).rows
    assert split_leaks(row for row in rows if row.split == "train") == ()
    for row in rows:
        object.__setattr__(row, "participant_uid", "")
    assert split_leaks(rows) == ()


def test_the_job_is_as_large_as_the_arrays_of_a_store(tmp_path: Path):
    clips = ClipRecipe(frames=5, hw=(32, 48), window_step=20, views=3, min_views=3)
    vae = VaeRecipe(class_name="Vae", weights_digest="aa", config_digest="bb")
    create_store(tmp_path / "s", StoreRecipe(clips=clips, vae=vae))
    job = job_size(
        {"train": 5, "test": 2}, clips.shape, frames_for=("test",), encode_clips_per_second=0.5
    )
    group = zarr.open_group(tmp_path / "s" / "arrays", mode="r")
    assert set(job.arrays) == set(group.array_keys())
    for name, array in group.arrays():
        count = 7 if ARRAYS[name].every_clip else 2
        assert job.arrays[name].bytes == count * math.prod(array.shape[1:]) * array.dtype.itemsize
    assert job.bytes == sum(array.bytes for array in job.arrays.values())
    assert math.isclose(job.gpu_hours, 7 / 0.5 / 3600)


def test_a_hostile_take_name_is_shown_and_never_obeyed():
    name = "<script>alert(1)</script>\" onerror='x' ../../etc"
    found = finding(name, sheet="x.jpg", in_view=0.1)
    hostile = Reject(name, name, "", "dropped", name)
    job = job_size({name: 3}, RECIPE.shape, frames_for=(), encode_clips_per_second=1.0)
    shown = Examined(name, "d" * 64, [found], [hostile], (), job, "sheets", True)
    text = "\n".join(page(shown))
    links = Links()
    links.feed(text)
    assert "script" not in links.elements and "&lt;script&gt;" in text
    assert set(links.addresses) == {"sheets/x.jpg", "#x.jpg"}


def test_a_hostile_take_name_stays_inside_the_folder_of_sheets(index: Path):
    clips = read_index(index)
    for row in clips.rows:
        object.__setattr__(row, "take_name", "../../../" + row.take_name + "<b>")
    before = Counter(path.suffix for path in index.parent.parent.rglob("*"))
    round_of(clips, index.parent)
    after = Counter(path.suffix for path in index.parent.parent.rglob("*"))
    assert after - before == Counter({".jpg": 2, ".html": 1, "": 1})
    assert len(list((index.parent / "ingest_sheets").glob("*.jpg"))) == 2


def test_takes_that_stand_out_are_flagged_with_the_reason():
    plain = Offset(offset_frames=5, clear=True, agreement=0.8, lead=0.3, views={}, frames=180)
    late = SyncFinding(exo=plain, ego=None)
    early = SyncFinding(exo=plain, ego=plain.model_copy(update={"offset_frames": -4}))
    streams = tuple(Stream(f"cam0{n}", "a.mp4", n, 30.0, (4, 4), "") for n in (1, 2))
    assert finding("a").flags == ()
    assert finding("a", sync=late).flags == ("sync: exo 5 frames late",)
    assert finding("a", sync=early).flags == ("sync: exo 5 frames late, ego 4 frames early",)
    assert early.exo_after_ego == 9 and "Exo against ego: +9 frames." in early.lines
    assert finding("a", in_view=0.2).flags == ("the wearer is in 20% of the exo pictures only",)
    assert finding("a", streams=streams).flags == ("the videos have 1, 2 frames",)


def test_coverage_counts_windows_with_every_pose_and_frames_within_clips(root: Any, tmp_path: Path):
    take = root.add("cmu_bike01_2", sources="A")
    for frame in range(20, 24):
        del take.camera_pose["aria01"]["camera_extrinsics"][str(frame)]
    take.write()
    out = tmp_path / "clips.parquet"
    ingest(root.write(), out, recipe=RECIPE)
    text = round_of(out, tmp_path).page.read_text()
    assert "50% of the windows have every pose (1 left out)" in text
    assert "clips span 34% of the video" in text


def test_the_page_of_five_thousand_takes_is_small_and_names_each(tmp_path: Path):
    takes = [finding(f"take_{number}", sheet=f"{number}.jpg") for number in range(5000)]
    job = job_size({"train": 15000}, RECIPE.shape, frames_for=(), encode_clips_per_second=1.0)
    parts = list(page(Examined("/data", "d" * 64, takes, (), (), job, "sheets", False)))
    assert sum(map(len, parts)) < 6_000_000
    assert "take_4999" in parts[-2] and 'loading="lazy"' in parts[-2]
