"""The reports in a real browser: nothing broken, nothing fetched, nothing cut off, on a desk and a phone.

Chromium runs headless and is spoken to over the pipe of its DevTools protocol: JSON messages that end in
a zero byte, read from its file descriptor 4 and written to 3. No port is opened.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from select import select
from typing import Any

import pytest

from fedmerge.reports import write_study_report
from fedmerge.reports.run_report import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next((path for name in BROWSERS if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(FOUND is None, reason=f"no browser here: none of {', '.join(BROWSERS)}")
SECONDS = 60.0
START = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])"""
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip
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


class Browser:
    """A headless Chromium with one page."""

    def __init__(self, profile: Path) -> None:
        assert FOUND is not None
        to_read, self.write = os.pipe()
        self.read, to_write = os.pipe()
        command = [sys.executable, "-c", START, str(to_read), str(to_write), FOUND, *OPTIONS]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self.buffer, self.last = b"", 0
        self.events: list[dict[str, Any]] = []
        self.session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": session["sessionId"]}
        for room in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{room}.enable")
        self.call("Emulation.setScrollbarsHidden", hidden=True)

    def call(self, method: str, **params: Any) -> Any:
        """One command and its answer; events that come before it are kept."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params, **self.session}
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.last:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, event: str) -> None:
        """Until an event has come."""
        while not any(each.get("method") == event for each in self.events):
            self.events.append(self._next())

    def open(self, page: Path, width: int) -> dict[str, Any]:
        """Load a page at a width; what the probe saw, what the console said, and what was asked for."""
        self.events = []
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=page.as_uri())
        self.wait_for("Page.loadEventFired")
        seen = self.evaluate(PROBE)
        seen["complaints"] = [event for event in self.events if _complains(event)]
        urls = [
            e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"
        ]
        seen["requests"] = [url for url in urls if not url.startswith("data:") and url != page.as_uri()]
        return seen

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self.buffer:
            ready, _, _ = select([self.read], [], [], max(end - time.monotonic(), 0.0))
            assert ready, f"the browser said nothing for {SECONDS:.0f} seconds"
            more = os.read(self.read, 2**20)
            assert more, "the browser ended"
            self.buffer += more
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        """End the browser that was started here, and no other."""
        os.close(self.write)  # the end of the pipe is the end of the browser
        os.close(self.read)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _complains(event: dict[str, Any]) -> bool:
    """An error on the console, an uncaught exception, or a log entry such as a blocked script."""
    params = event.get("params", {})
    return (
        event["method"] == "Runtime.exceptionThrown"
        or (
            event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning")
        )
        or (event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"))
    )


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
    seen = browser.open(pages[name], width)
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
    seen = browser.open(page, 390)
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
    seen = browser.open(page, 1280)
    assert browser.evaluate("window.attacked === undefined")
    assert len(seen["complaints"]) == 1


def test_columns_are_sorted_by_key_within_their_group(browser, pages):
    """The key Enter on the first heading: accuracy falls within each kind; again: rises; again: as it was."""
    browser.open(pages["run"], 1280)
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
