"""The report in a real browser: nothing overflows at any width, nothing is fetched, every text has contrast."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import chromium
from support.report_runs import write_corpus, write_grid

from islr.reporting import build_report

pytestmark = pytest.mark.skipif(chromium.binary() is None, reason="no chromium on this machine")

OVERFLOWING = """[...document.querySelectorAll('body *')].filter(e => {
  if (e.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let p = e; p; p = p.parentElement)
    if (['auto', 'hidden', 'scroll'].includes(getComputedStyle(p).overflowX)) return false;
  return true;
}).map(e => e.tagName + ' ' + e.className + ' ' + e.textContent.slice(0, 60))"""
SCROLLING = """[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => (e.querySelector('table').getAttribute('aria-label')))"""
GRID = "document.querySelectorAll('#grid table.grid')"
UNFOLD = "document.querySelectorAll('details').forEach(d => { d.open = true })"
# Contrast of every text against the nearest opaque background (WCAG 2.2, 1.4.3); colours are read back from a canvas,
# because they may be mixed in another colour space.
WEAK_TEXT = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const known = new Map();
  const rgb = c => { if (known.has(c)) return known.get(c);
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1);
    known.set(c, canvas.getImageData(0, 0, 1, 1).data); return known.get(c) };
  const linear = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const weak = new Map(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || e.tagName == 'title') continue;
    const style = getComputedStyle(e), ink = light(rgb(e.closest('svg') ? style.fill : style.color));
    let behind = e;
    while (behind.parentElement && rgb(getComputedStyle(behind).backgroundColor)[3] < 255)
      behind = behind.parentElement;
    const paper = light(rgb(getComputedStyle(behind).backgroundColor));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) weak.set(e.tagName + '.' + e.getAttribute('class'), ratio);
  }
  return [...weak]
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of the size that fills the page: eight methods in four regimes."""
    root = tmp_path_factory.mktemp("browser")
    write_grid(root / "runs", seeds=1)
    write_corpus(root / "corpus")
    return build_report([root], root / "report.html")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_and_nothing_is_fetched(tab: chromium.Browser, page: Path, width: int) -> None:
    tab.open(page, width)
    assert tab.evaluate("innerWidth") == width
    for state in ("folded", "unfolded"):
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, state
        assert tab.evaluate(OVERFLOWING) == [], state
        tab.evaluate(UNFOLD)
    assert tab.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0
    fetched = {request["request"]["url"].partition(",")[0] for request in tab.said("Network.requestWillBeSent")}
    assert {url.partition(":")[0] for url in fetched} <= {"file", "data"}
    assert len([url for url in fetched if url.startswith("file:")]) == 1
    assert tab.said("Runtime.exceptionThrown") == []
    assert [entry["entry"]["text"] for entry in tab.said("Log.entryAdded")] == []


def test_eight_methods_in_four_regimes_fit_a_screen_and_scroll_on_a_phone(tab: chromium.Browser, page: Path) -> None:
    tab.open(page, 1280)
    grid = set(tab.evaluate(f"[...{GRID}].map(t => t.getAttribute('aria-label'))"))
    assert len(grid) == 3
    assert not grid & set(tab.evaluate(SCROLLING))
    tab.open(page, 390)
    assert grid <= set(tab.evaluate(SCROLLING))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(tab: chromium.Browser, page: Path, scheme: str) -> None:
    tab.open(page, 1280, scheme=scheme)
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0] < 128")
    assert dark == (scheme == "dark")
    tab.evaluate(UNFOLD)
    assert tab.evaluate(WEAK_TEXT) == []


def test_print_opens_what_is_folded_and_cuts_no_table(tab: chromium.Browser, page: Path) -> None:
    tab.open(page, 718, media="print")  # the width of A4 within its margins
    assert tab.evaluate(SCROLLING) == []
    hidden = "[...document.querySelectorAll('details table')].filter(t => !t.getBoundingClientRect().height).length"
    assert tab.evaluate("document.querySelectorAll('details table').length") > 5
    assert tab.evaluate(hidden) == 0
