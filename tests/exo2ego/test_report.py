"""The report: one page that holds all it shows, says what it leaves out, and compares fairly."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cli import app
from exo2ego.evaluation.baselines import baseline_settings, open_baseline
from exo2ego.evaluation.clip_choice import ClipChoice
from exo2ego.evaluation.evaluate import evaluate
from exo2ego.evaluation.manifest import MANIFEST, SamplesFault
from exo2ego.evaluation.report.clips import read_report_result
from exo2ego.evaluation.report.compare import compare
from exo2ego.evaluation.report.media import Media
from exo2ego.evaluation.report.modes import FAST_SHARE, MODES, ClipMeasures, first_energy, speed
from exo2ego.evaluation.report.page import write_report
from exo2ego.evaluation.report.sections import ranking
from exo2ego.evaluation.tables.result import ResultFault
from stores.progress import silent
from stores.reading import Store

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.fixture(autouse=True)
def no_trunk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own AlexNet, if it has one, is not looked at."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def scored(store: Store, tmp_path: Path) -> Callable[..., Path]:
    """Makes and scores the samples of a baseline, of all test clips."""

    def make(name: str, method: str = "exo-view", clips: ClipChoice | None = None, **told: object):
        out, choice = tmp_path / name, clips or ClipChoice("test-all")
        settings = baseline_settings(method, **told)
        open_baseline(store, settings, out, vae_spec="tiny", clips=choice).fill(silent)
        evaluate(store, out)
        return out

    return make


class Page(HTMLParser):
    """What a browser would find: ids, links, what is loaded, whether tags nest."""

    def __init__(self, path: Path):
        super().__init__()
        self.text, self.html = "", path.read_text()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "href":
                self.links.append(value or "")
            elif name in ("src", "srcset", "poster", "data"):
                self.loads.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Nothing: it is closed."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_all_that_it_shows_and_every_link_leads_somewhere(
    scored: Callable[..., Path], store: Store, tmp_path: Path
):
    first, second = scored("first", view=0), scored("second", "mean-frame")
    written = write_report([first, second], tmp_path / "r.html", store=store)
    page = Page(tmp_path / "r.html")
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.loads) == written.videos == 8
    assert all(uri.startswith("data:video/mp4;base64,") for uri in page.loads)
    assert not re.search(r"https?://|@import|<script|url\(", page.html)


def test_scores_on_the_page_are_those_of_the_result(scored: Callable[..., Path], tmp_path: Path):
    out = scored("a", view=0)
    write_report([out], tmp_path / "r.html")
    overall = json.loads((out / "scores.json").read_text())
    text = Page(tmp_path / "r.html").text
    assert f"{overall['overall']['psnr']:.4f}" in text
    ends = overall["intervals"]["overall"]["ssim"]
    assert f"{ends['low']:.4f} to {ends['high']:.4f}" in text
    assert "not measured: give --store" in text


def test_a_page_too_small_for_its_videos_says_which_are_left_out(
    scored: Callable[..., Path], tmp_path: Path
):
    out = scored("a", view=0)
    written = write_report([out], tmp_path / "r.html", most_megabytes=0.0)
    page = Page(tmp_path / "r.html")
    assert (written.videos, written.videos_left_out, page.loads) == (0, 4, [])
    assert page.text.count("side-by-side.mp4 of a") == 4


def test_the_most_wanted_videos_come_first_and_a_small_one_still_fits(tmp_path: Path):
    sizes = {"a": 300, "b": 900, "c": 100}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    media = Media(600)
    media.add([tmp_path / name for name in "abcab"])
    assert [path.name for path in media.uris] == ["a", "c"]
    assert [path.name for path in media.left_out] == ["b"]
    assert media.used == 400 + 136 == sum(len(uri) - 22 for uri in media.uris.values())


def test_the_worst_clip_comes_first_by_its_score(scored: Callable[..., Path]):
    result = read_report_result(scored("a", view=0), None)
    values = [clip.score.psnr for clip in ranking(result)]
    assert values == sorted(values)
    assert len(values) == 4


# --- failure modes ----------------------------------------------------------------------------


def failing(measures: ClipMeasures) -> list[str]:
    return [mode.name for mode in MODES if mode.fails(measures)]


@pytest.mark.parametrize(
    ("measures", "names"),
    [
        (ClipMeasures(20.0, 500.0, 0.01), []),
        (ClipMeasures(11.9, 500.0, 0.01), ["Poor first frame"]),
        (ClipMeasures(20.0, 24.0, 0.01), ["Textureless first frame"]),
        (ClipMeasures(11.0, 24.0, 0.01), ["Poor first frame"]),
        (ClipMeasures(20.0, 500.0, 0.06), ["Fast motion"]),
        (ClipMeasures(20.0, None, None), []),
    ],
)
def test_each_mode_is_found_by_its_measure(measures: ClipMeasures, names: list[str]):
    assert failing(measures) == names


def moving(pixels: int) -> torch.Tensor:
    """A smooth picture that moves to the left by so many pixels a frame."""
    noise = torch.rand(1, 1, 12, 24, generator=torch.Generator().manual_seed(3))
    image = torch.nn.functional.interpolate(noise, size=(96, 192), mode="bicubic")[0, 0]
    film = torch.stack([image[:64, k * pixels : k * pixels + 80] for k in range(5)])
    return (film.clamp(0, 1) * 255).byte()[..., None].repeat(1, 1, 1, 3)


def test_speed_is_the_share_of_the_width_that_the_picture_moves():
    assert speed(moving(0)) == pytest.approx(0, abs=1e-3)
    assert speed(moving(6)) == pytest.approx(6 / 80, rel=0.15)
    assert speed(moving(1)) < FAST_SHARE < speed(moving(6))


def test_a_plain_frame_has_no_energy_and_a_textured_one_has():
    plain = torch.full((2, 8, 12, 3), 90, dtype=torch.uint8)
    assert first_energy(plain) == 0
    assert first_energy(moving(1)) > 25


# --- comparison -------------------------------------------------------------------------------


def test_a_result_against_itself_is_equal_in_every_clip(scored: Callable[..., Path]):
    result = read_report_result(scored("a", view=0), None)
    for one in compare(result, result).metrics:
        assert (one.mean, one.better, one.worse, one.equal) == (0.0, 0, 0, 4)


def test_a_comparison_is_the_other_way_round_the_other_way(scored: Callable[..., Path]):
    first = read_report_result(scored("a", view=0), None)
    second = read_report_result(scored("b", "mean-frame"), None)
    forth, back = compare(first, second), compare(second, first)
    for a, b in zip(forth.metrics, back.metrics, strict=True):
        assert a.mean == pytest.approx(-b.mean)
        assert (a.better, a.worse) == (b.worse, b.better)
        assert a.interval and a.interval[0] <= a.mean <= a.interval[1]
    overall = (one.result.scores.overall.psnr for one in (first, second))
    assert forth.metrics[0].mean == pytest.approx(-next(overall) + next(overall))


def test_other_clips_are_no_comparison(scored: Callable[..., Path]):
    all_clips = read_report_result(scored("a", view=0), None)
    few = read_report_result(scored("b", clips=ClipChoice("test-1"), view=0), None)
    with pytest.raises(ResultFault, match="same clips") as fault:
        compare(all_clips, few)
    assert "cmu_bike02_1-f000036" in str(fault.value)


# --- bad input --------------------------------------------------------------------------------


def test_scores_of_other_samples_than_those_beside_them_are_refused(
    scored: Callable[..., Path],
):
    out = scored("a", view=0)
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["clips"].popitem()
    (out / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ResultFault, match="not those of the samples"):
        read_report_result(out, None)


def test_a_missing_table_of_frames_is_refused(scored: Callable[..., Path]):
    out = scored("a", view=0)
    (out / "scores.parquet").unlink()
    with pytest.raises(ResultFault, match="no table of frames"):
        read_report_result(out, None)


def test_a_missing_video_is_told_on_the_page(scored: Callable[..., Path], tmp_path: Path):
    out = scored("a", view=0)
    (out / "cmu_bike02_1-f000000.side-by-side.mp4").unlink()
    write_report([out], tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert len(page.loads) == 3
    assert "Its video is not in the folder of samples." in page.text


def test_clips_that_were_not_scored_are_named(
    scored: Callable[..., Path], store: Store, tmp_path: Path
):
    out = scored("a", view=0)
    manifest = json.loads((out / MANIFEST).read_text())
    del manifest["clips"]["cmu_bike02_3-f000000"]
    (out / MANIFEST).write_text(json.dumps(manifest))
    evaluate(store, out)
    write_report([out], tmp_path / "r.html")
    text = Page(tmp_path / "r.html").text
    assert "without a video, and in no mean: cmu_bike02_3-f000000" in text


def test_frames_of_nan_are_refused_by_name(scored: Callable[..., Path]):
    out = scored("a", view=0)
    path = out / "cmu_bike02_1-f000000.safetensors"
    frames = load_file(path)["frames"].float() / 0 * 0
    save_file({"frames": frames}, path)
    with pytest.raises(SamplesFault, match=r"cmu_bike02_1-f000000[\s\S]*NaN"):
        read_report_result(out, None)


def test_another_store_is_refused(
    scored: Callable[..., Path], make_store: Callable[..., Path], clip_rows: list, tmp_path: Path
):
    out, other = scored("a", view=0), make_store(clip_rows, seed=5)
    words = ["report", str(out), "--store", str(other), "--out", str(tmp_path / "r.html")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "another store" in done.stderr
    assert not (tmp_path / "r.html").exists()


# --- in a browser -----------------------------------------------------------------------------


def browse(*words: str) -> str:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, *words], capture_output=True, timeout=120, check=True
    )
    return done.stdout.decode()


PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  const root = document.documentElement, videos = [...document.querySelectorAll("video")];
  const focusable = document.querySelectorAll("a[href], video[controls], summary, [tabindex='0']");
  document.title = JSON.stringify({
    wide: root.scrollWidth, seen: root.clientWidth, focusable: focusable.length,
    videos: videos.length, shown: videos.filter((v) => v.videoWidth > 0).length,
    ground: getComputedStyle(document.body).backgroundColor,
  });
}, 1500))</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: the page is not looked at")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (500, False), (1280, True)])
def test_in_a_browser_videos_load_nothing_overflows_and_dark_is_dark(
    width: int, dark: bool, scored: Callable[..., Path], tmp_path: Path
):
    first, second = scored("first", view=0), scored("second", "mean-frame")
    write_report([first, second], tmp_path / "r.html")
    probed = tmp_path / "probed.html"
    probed.write_text((tmp_path / "r.html").read_text().replace("</head>", PROBE + "</head>"))
    scheme = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    data = f"--user-data-dir={tmp_path / 'chromium'}"
    size = f"--window-size={width},900"
    found = browse("--dump-dom", data, size, *scheme, probed.as_uri())
    told = json.loads(re.findall(r"<title>(.*?)</title>", found)[0])
    assert told["wide"] <= told["seen"]
    assert told["videos"] == told["shown"] == 8
    assert told["focusable"] > 20
    levels = [int(level) for level in re.findall(r"\d+", told["ground"])[:3]]
    assert (sum(levels) < 150) == dark
