"""The pages in Debian's chromium: narrow, usual, wide, light, dark, printed; nothing overflows or is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer.pipeline.reporting.cache_page import write_cache_page
from mer.pipeline.reporting.comparison_page import write_comparison
from mer.pipeline.reporting.page import write_report
from mer.pipeline.reporting.timeline_page import write_timeline_page
from mer.pipeline.results.compare import compare
from mer.pipeline.results.timeline import Prediction, Timeline, TimelineHeader
from mer.stages.corpora.demo.media import Picture, Sound, write_media

WIDTHS = (390, 1280, 1920)
LOOKS = ("light", "dark", "print")
PAGES = ("report", "cache", "comparison", "timeline")
MOST_BYTES = 3 << 20
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
)
CONTRAST = """
function parts(colour) { return colour.match(/[\\d.]+/g).map(Number); }
function light(rgb) {
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const [r, g, b] = rgb.slice(0, 3).map(v => linear(v / 255));
  return .2126 * r + .7152 * g + .0722 * b;
}
function ground(node) {
  for (; node; node = node.parentElement) {
    const c = parts(getComputedStyle(node).backgroundColor);
    if (c.length < 4 || c[3] === 1) return c;
    if (c[3] > 0) return null;
  }
  return [255, 255, 255];
}
const low = [];
for (const node of document.querySelectorAll("h1, h2, h3, p, th, td, small, a, li, footer, span.value")) {
  const text = [...node.childNodes].some(one => one.nodeType === 3 && one.textContent.trim());
  const behind = ground(node);
  if (!text || !behind || node.closest(".confusion") || !node.getClientRects().length) continue;
  const [a, b] = [light(parts(getComputedStyle(node).color)), light(behind)];
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) low.push(`${node.tagName}.${node.className} ${ratio.toFixed(2)}: ${node.textContent.slice(0, 30)}`);
}
return low;
"""
UNLABELLED = """
const bad = [];
for (const one of document.querySelectorAll("svg")) if (!one.getAttribute("aria-label")) bad.push("svg");
for (const one of document.querySelectorAll("img")) if (!one.alt) bad.push("img");
for (const one of document.querySelectorAll("tbody tr"))
  if (!one.querySelector("th[scope=row]")) bad.push("row: " + one.textContent);
if (document.querySelectorAll("h1").length !== 1 || !document.documentElement.lang || !document.title) bad.push("page");
return bad;
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (the extra test)")
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(service=Service(str(shutil.which("chromedriver"))), options=options)
    yield driver
    driver.quit()


def timeline_of_two(folder: Path) -> Path:
    """A minute of two people, with a video beside the page."""
    rng = np.random.default_rng(0)
    video = folder / "a video.mp4"
    frames = [np.full((90, 160, 3), 40 + (i % 5), np.uint8) for i in range(60 * 5)]
    write_media(video, Picture(frames, 5.0, (160, 90)), Sound(np.zeros((60 * 16_000, 1), np.float32), 16_000))
    rows = [
        Prediction(at, float(at), at + 4.0, person, person == 1, "speaking", "<b>words</b>", share, share * 0,
                   ("face", "audio"), {}, {}, 0.5)
        for at in range(57)
        for person in (1, 2)
        for share in [rng.dirichlet(np.ones(3))]
    ]  # fmt: skip
    header = TimelineHeader(video.name, 1, "run", "0", "emotion", "class", ("calm", "joy <mark>&", "anger"), 2,
                            {"length_seconds": 4.0, "hop_seconds": 1.0})  # fmt: skip
    return write_timeline_page(Timeline(header, rows, 60.0), folder / "timeline.html", video)


@pytest.fixture(scope="module")
def pages(features: Path, make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    runs = [make_run(), make_run("text", modalities="text")]
    return {
        "report": write_report(runs[:1], folder / "report.html"),
        "cache": write_cache_page(features, folder / "cache.html"),
        "comparison": write_comparison(runs, compare(runs), folder / "comparison.html"),
        "timeline": timeline_of_two(folder),
    }


def show(browser: Any, page: Path, width: int, look: str) -> None:
    """Open a page as a screen of this width in this look shows it."""
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if look == "dark" else "light"}]
    media = "print" if look == "print" else "screen"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": scheme})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())


def requests_of(browser: Any) -> set[str]:
    """Everything the page asked for; what the browser draws its own controls with left out."""
    entries = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"}
    return {url.split("#")[0] for url in asked if not url.startswith("data:")}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_is_silent_and_is_readable(browser: Any, pages: dict[str, Path], name: str) -> None:
    page = pages[name]
    assert page.stat().st_size < MOST_BYTES
    allowed = {page.as_uri()} | ({(page.parent / "a video.mp4").as_uri()} if name == "timeline" else set())
    for width in WIDTHS:
        for look in LOOKS:
            show(browser, page, width, look)
            where = f"{name} at {width} px, {look}"
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, where
            assert browser.get_log("browser") == [], where
            assert requests_of(browser) <= allowed, where
            assert browser.execute_script(CONTRAST) == [], where
    assert browser.execute_script(UNLABELLED) == []


def test_the_checks_see_what_they_look_for(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<p style='color:#999'>pale</p><div style='width:3000px'>wide</div><svg></svg><img src='https://example.invalid/x'>"
        "<table><tbody><tr><td>x</td></tr></tbody></table><script>console.error('no')</script>"
    )
    show(browser, page, 390, "light")
    assert browser.execute_script("return document.documentElement.scrollWidth") > 390
    assert any("no" in entry["message"] for entry in browser.get_log("browser"))
    assert "https://example.invalid/x" in requests_of(browser)
    assert len(browser.execute_script(CONTRAST)) == 1
    assert browser.execute_script(UNLABELLED) == ["svg", "img", "row: x", "page"]


def test_a_moment_of_the_time_line_is_one_click_away(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, pages["timeline"], 1280, "light")
    wait = WebDriverWait(browser, 10)
    wait.until(lambda driver: driver.execute_script("return document.querySelector('video').readyState") >= 1)
    link = browser.find_elements(By.CSS_SELECTOR, "a[data-seek]")[6]
    start = float(link.get_attribute("data-seek"))
    browser.execute_script("arguments[0].focus()", link)
    link.send_keys("\n")  # as with a keyboard
    wait.until(lambda driver: driver.execute_script("return document.querySelector('video').currentTime") == start)
    now = wait.until(lambda driver: driver.find_element(By.CSS_SELECTOR, ".now").text)
    assert now.startswith("person ")
    left = float(browser.execute_script("return document.getElementById('cursor').getAttribute('x1')"))
    svg = browser.find_element(By.CSS_SELECTOR, "svg.lanes")
    near, far = (float(svg.get_attribute(f"data-{end}")) for end in ("left", "right"))
    assert left == pytest.approx(near + start / 60 * (far - near), abs=0.5)
