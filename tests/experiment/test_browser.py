"""The reports in a real browser: nothing broken, nothing fetched, nothing cut off, on a desk and a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmerge.reports import write_study_report
from fedmerge.reports.run_report import write_report
from tests.browser import NEEDED, Browser

pytestmark = NEEDED
PROBE = """(async () => {
  document.querySelectorAll("details").forEach(each => { each.open = true; });
  const images = [...document.images];
  await Promise.all(images.map(image => image.decode().catch(() => {})));
  const box = element => element.getBoundingClientRect();
  return {
    broken: images.filter(image => !image.naturalWidth).map(image => image.alt),
    hidden: images.filter(image => box(image).width < 100 || box(image).height < 50).map(image => image.alt),
    figures: [...document.querySelectorAll("section")].map(s => [s.getAttribute("aria-labelledby"),
      s.querySelectorAll("img").length]).filter(pair => pair[1]),
    width: innerWidth,
    scroll: document.scrollingElement.scrollWidth,
    cut: [...document.querySelectorAll("p, h1, h2, li, dd, summary")]
      .filter(each => box(each).right > innerWidth + 1).map(each => each.textContent),
  };
})()"""
RUN = {"scores": 1, "differences": 1, "cost": 1, "reliability": 1, "map": 1, "samples": 1, "classes": 1}
RUN |= {"rounds": 1, "coefficients": 2}
STUDY = {"scores": 1, "strata": 1, "sites": 1, "severity": 1, "cost": 1, "reliability": 1}


def opened(browser: Browser, page: Path, width: int) -> dict[str, Any]:
    """Load a page at a width; what the probe saw, what the console said, and what was asked for."""
    browser.visit(page.as_uri(), width)
    seen = browser.evaluate(PROBE)
    seen["complaints"] = browser.complaints()
    seen["requests"] = [url for url in browser.requests() if url != page.as_uri()]
    return seen


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory, whole_result, whole_study) -> dict[str, Path]:
    """A run's report and a study's with every figure there is; names as long as they get."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("run", "study")}
    return {
        "run": write_report(whole_result(folders["run"])),
        "study": write_study_report(whole_study(folders["study"])),
    }


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(("name", "expected"), [("run", RUN), ("study", STUDY)])
def test_a_report_is_whole(browser, pages, name, expected, width):
    seen = opened(browser, pages[name], width)
    assert seen["width"] == width
    assert seen["broken"] == []
    assert seen["hidden"] == []
    assert dict(seen["figures"]) == expected
    assert seen["scroll"] <= width
    assert seen["cut"] == []
    assert seen["complaints"] == []
    assert seen["requests"] == []


def test_the_probe_sees_what_is_broken(browser, tmp_path):
    """A page with a broken image, something too wide, a failing script and a request: all are reported."""
    page = tmp_path / "broken.html"
    page.write_text(
        '<section aria-labelledby="x"><img src="gone.png" alt="gone"></section>'
        '<p style="width:900px">wide</p><script>console.error("no"); undefined.x</script>'
    )
    seen = opened(browser, page, 390)
    assert seen["broken"] == ["gone"]
    assert seen["scroll"] > seen["width"]
    assert seen["cut"] == ["wide"]
    assert len(seen["complaints"]) >= 2
    assert seen["requests"] == [page.with_name("gone.png").as_uri()]


def test_a_foreign_script_does_not_run(browser, pages, tmp_path):
    """The policy of the page stops a script that found its way in."""
    page = tmp_path / "attacked.html"
    text = pages["run"].read_text(encoding="utf-8")
    page.write_text(
        text.replace("</main>", "<script>window.attacked = true</script></main>"), encoding="utf-8"
    )
    seen = opened(browser, page, 1280)
    assert browser.evaluate("window.attacked === undefined")
    assert len(seen["complaints"]) == 1


def test_columns_are_sorted_by_key_within_their_group(browser, pages):
    """The key Enter on the first heading: accuracy falls within each kind; again: rises; again: as it was."""
    opened(browser, pages["run"], 1280)
    order = """[...document.querySelector("table.scores").tBodies].map(body => [...body.rows]
      .filter(row => row.className !== "group").map(row => Number(row.cells[1].dataset.value)))"""
    head = 'document.querySelector("table.scores thead th[data-column=\\"1\\"]")'
    before = browser.evaluate(order)
    seen = []
    for _ in range(3):
        browser.evaluate(f'{head}.querySelector("button").focus()')
        for kind in ("rawKeyDown", "char", "keyUp"):
            browser.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                windowsVirtualKeyCode=13,
                text="\r",
            )
        seen.append((browser.evaluate(order), browser.evaluate(f'{head}.getAttribute("aria-sort")')))
    falling = [sorted(group, reverse=True) for group in before]
    rising = [sorted(group) for group in before]
    assert falling != rising
    assert seen == [(falling, "descending"), (rising, "ascending"), (before, None)]
    assert browser.evaluate('document.querySelectorAll("table.scores tbody tr:first-child.group").length > 1')
