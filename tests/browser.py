"""A headless Chromium, spoken to over the pipe of its DevTools protocol; no port is opened.

Messages are JSON that ends in a zero byte, read from its file descriptor 4 and written to 3.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from select import select
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next((path for name in BROWSERS if (path := shutil.which(name))), None)
NEEDED = pytest.mark.skipif(FOUND is None, reason=f"no browser here: none of {', '.join(BROWSERS)}")
SECONDS = 60.0
START = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])"""
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip


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

    def visit(self, url: str, width: int) -> None:
        """Load a page at a width; ``events`` has what the console said, and what was asked for."""
        self.events = []
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")

    def complaints(self) -> list[dict[str, Any]]:
        """What the console complained of since the last visit."""
        return [event for event in self.events if _complains(event)]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last visit, but those in the page itself."""
        asked = [each for each in self.events if each["method"] == "Network.requestWillBeSent"]
        urls = [each["params"]["request"]["url"] for each in asked]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

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
