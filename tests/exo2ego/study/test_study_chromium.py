"""The pages in a real browser: from instructions to submit, by keys, by clicks, and without script.

Needs Chromium on the machine (Debian: `apt install chromium`); skips where there is none.
"""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

from exo2ego.evaluation.study.blinding import rows_for
from exo2ego.evaluation.study.folder import read_study

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: not looked at on this machine (apt install chromium)"
)
FRAME_SECONDS = 4 / 30


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # root may not use Chromium's sandbox; pages come from loopback alone
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A page of a participant, and all that went over the wire or wrong."""

    def __init__(self, page: Page, served: Any):
        self.page, self.served, self.link = page, served, served.invite()
        self.requests: list[Request] = []
        self.troubles: list[str] = []
        page.on("request", lambda request: self.requests.append(request))
        page.on("console", lambda message: self.troubles.append(message.text))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.goto("")

    def goto(self, path: str) -> None:
        self.page.goto(f"http://127.0.0.1:{self.served.port}{self.link}{path}")

    @property
    def path(self) -> str:
        return self.page.url.partition(self.link)[2]

    def arrives(self, path: str) -> None:
        self.page.wait_for_url(f"**{self.link}{path}")

    def waits(self, condition: str) -> None:
        """Until the condition holds; wait_for_function would need an unsafe-eval."""
        for _ in range(1000):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(20)
        pytest.fail(f"never: {condition}")

    def chosen(self) -> list[str | None]:
        token = self.link.rpartition("/")[2]
        choices = self.served.ballots.choices(token)
        return [choices.get(r.sample_id) for r in rows_for(read_study(self.served.folder), token)]


@pytest.fixture
def visit(browser: Browser, served: Any) -> Iterator[Visit]:
    context = browser.new_context()
    yield Visit(context.new_page(), served)
    context.close()


def test_from_instructions_to_submit_by_keys_alone(visit: Visit):
    page = visit.page
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Start":
            break
    page.keyboard.press("Enter")
    visit.arrives("/1")
    for number, key in enumerate("bRn", start=1):
        page.keyboard.press(key)
        visit.arrives(f"/{number + 1}")
    page.keyboard.press("ArrowRight")  # leaves 4 open
    visit.arrives("/5")
    page.keyboard.press("ArrowLeft")
    visit.arrives("/4")
    page.keyboard.press("ArrowRight")
    visit.arrives("/5")
    page.keyboard.press("b")
    visit.arrives("/6")
    page.keyboard.press("r")
    visit.arrives("/review")
    assert visit.chosen() == ["blue", "red", "none", None, "blue", "red"]
    page.get_by_role("button", name="Submit").focus()
    page.keyboard.press("Enter")
    visit.arrives("")
    assert "5 of 6 samples are answered" in page.inner_text("main")
    assert visit.served.ballots.participants()[0].submitted_at
    assert visit.troubles == []


def test_clicks_vote_and_answers_are_there_after_the_browser_was_closed(
    visit: Visit, browser: Browser
):
    visit.page.click("text=Start")
    visit.page.get_by_role("button", name="RED").click()
    visit.arrives("/2")
    visit.page.context.close()
    page = browser.new_context().new_page()
    page.goto(f"http://127.0.0.1:{visit.served.port}{visit.link}")
    page.click("text=Continue with sample 2")
    page.click("text=Back")
    pressed = page.locator("button[aria-pressed=true]")
    assert pressed.inner_text().startswith("RED")
    page.get_by_role("button", name="NONE").click()
    page.wait_for_url("**/2")
    assert visit.chosen()[0] == "none"
    page.context.close()


def test_the_three_videos_play_and_loop_together(visit: Visit):
    visit.goto("/1")
    visit.waits(
        "[...document.querySelectorAll('video')].every(v => v.readyState === 4 && !v.paused)"
    )
    apart, loops, before = [], 0, 0.0
    for _ in range(80):
        times = visit.page.evaluate(
            "[...document.querySelectorAll('video')].map(v => v.currentTime)"
        )
        loops += times[0] < before
        before = times[0]
        if min(times) > 0 and max(times) < 4 * FRAME_SECONDS:  # not while some wait for others
            apart.append(max(times) - min(times))
        visit.page.wait_for_timeout(40)
    assert loops >= 2
    assert sorted(apart)[len(apart) // 2] < FRAME_SECONDS
    visit.page.click("text=Pause")
    paused = "[...document.querySelectorAll('video')].every(v => v.paused)"
    assert visit.page.evaluate(paused)
    visit.page.click("text=Play")
    visit.waits("[...document.querySelectorAll('video')].some(v => !v.paused)")
    assert visit.troubles == []


def test_what_goes_over_the_wire_is_the_same_whichever_side_is_ours(visit: Visit):
    for number in (1, 2, 3):
        visit.goto(f"/{number}")
        visit.page.wait_for_load_state("networkidle")
    asked = [request.url for request in visit.requests]
    home = f"http://127.0.0.1:{visit.served.port}/"
    assert all(url.startswith(home) for url in asked)
    panels = [re.search(r"/(\d)/(\w+)\.mp4", url) for url in asked]
    order = [found.groups() for found in panels if found]
    firsts = list(dict.fromkeys(order))
    for number in "123":
        assert [panel for n, panel in firsts if n == number] == ["reference", "blue", "red"]
    lengths = {
        request.response().headers.get("content-length")  # type: ignore[union-attr]
        for request in visit.requests
        if request.url.endswith(".mp4") and request.response()
    }
    assert len(lengths) == 1


def test_without_script_everything_but_keys_works(browser: Browser, served: Any):
    context = browser.new_context(java_script_enabled=False)
    visit = Visit(context.new_page(), served)
    visit.page.click("text=Start")
    assert not visit.page.get_by_text("Keys:").is_visible()
    visit.page.get_by_role("button", name="BLUE").click()
    visit.arrives("/2")
    visit.page.click("text=Review and submit")
    visit.page.get_by_role("button", name="Submit").click()
    visit.arrives("")
    assert "1 of 6" in visit.page.inner_text("main")
    context.close()


def test_keys_can_be_switched_off_and_stay_off(visit: Visit):
    visit.goto("/1")
    visit.page.uncheck("#keys")
    visit.goto("/2")
    visit.page.keyboard.press("b")
    visit.page.wait_for_timeout(200)
    assert (visit.path, visit.chosen()) == ("/2", [None] * 6)


def test_who_wants_less_motion_is_shown_still_videos(browser: Browser, served: Any):
    context = browser.new_context(reduced_motion="reduce")
    visit = Visit(context.new_page(), served)
    visit.goto("/1")
    visit.page.wait_for_load_state("networkidle")
    state = "[...document.querySelectorAll('video')].map(v => [v.paused, v.currentTime])"
    assert visit.page.evaluate(state) == [[True, 0]] * 3
    context.close()


CONTRAST = """() => {
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const lum = (rgb) => {
    const [r, g, b] = rgb.map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const parse = (text) => text.match(/[0-9.]+/g).map(Number);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const node of document.querySelectorAll("main *")) {
    const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
    if (!own || !node.offsetParent) continue;
    const ink = parse(getComputedStyle(node).color).slice(0, 3);
    const [a, b] = [lum(ink), lum(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([node.tagName, node.textContent.trim().slice(0, 30), ratio]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1200])
def test_pages_are_legible_and_fit_in_light_and_dark_at_any_width(
    scheme: Any, width: int, browser: Browser, served: Any
):
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    visit = Visit(context.new_page(), served)
    visit.goto("/1")
    visit.page.get_by_role("button", name="BLUE").click()
    for path in ("", "/1", "/2", "/review", "/nothing"):
        visit.goto(path)
        assert visit.page.evaluate(CONTRAST) == [], path
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, path
    context.close()


UNNAMED = """() => {
  const named = (node) => node.textContent.trim() || node.getAttribute("aria-label")
    || node.getAttribute("aria-labelledby") || (node.labels && node.labels.length);
  const all = [...document.querySelectorAll("a, button, input, progress, video")];
  return all.filter((node) => node.offsetParent && !named(node)).map((node) => node.outerHTML);
}"""


def test_everything_to_use_has_a_name_and_a_visible_focus(visit: Visit):
    for path in ("", "/1", "/2", "/review"):
        visit.goto(path)
        assert visit.page.evaluate(UNNAMED) == []
        assert visit.page.locator("h1").count() == 1
        visit.page.keyboard.press("Tab")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert visit.page.evaluate(outline) == "solid", path
