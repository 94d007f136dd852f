"""The page in a real browser, over a real service: uploads, errors, keys, a phone, a token."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.speed.serving import Running, models_in, npz
from tests.browser import NEEDED, SECONDS, Browser

pytestmark = [NEEDED, pytest.mark.slow]
Serve = Callable[..., Running]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    begun: list[Running] = []

    def start(*more: str, token: bool = False) -> Running:
        running = Running(models_in(tmp_path / "models"), tmp_path, *more, token=token)
        begun.append(running)
        return running.__enter__()

    yield start
    for running in begun:
        running.__exit__()


@pytest.fixture
def uploads(tmp_path: Path) -> dict[str, Path]:
    """Two pictures, an npz of three, and a picture that is cut."""
    rng = np.random.default_rng(0)
    found = {name: tmp_path / name for name in ("a.png", "=b.png", "rest.npz", "cut.png")}
    for name in ("a.png", "=b.png"):
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(found[name])
    found["rest.npz"].write_bytes(npz(rng.integers(0, 256, (3, 28, 28), dtype=np.uint8)))
    found["cut.png"].write_bytes(found["a.png"].read_bytes()[:-30])
    return found


def wait(browser: Browser, truth: str) -> None:
    """Until an expression is true on the page."""
    end = time.monotonic() + SECONDS
    while not browser.evaluate(truth):
        assert time.monotonic() < end, f"{truth}\n{browser.evaluate('document.body.innerText')}"
        time.sleep(0.05)


def text(browser: Browser, name: str) -> str:
    return browser.evaluate(f'document.getElementById("{name}").innerText')


def upload(browser: Browser, *files: Path) -> None:
    """Choose files as a person does."""
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    browser.call("DOM.setFileInputFiles", files=[str(path) for path in files], nodeId=node)


def press(browser: Browser, key: str, code: int, letter: str) -> None:
    for kind in ("rawKeyDown", "char", "keyUp"):
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=letter
        )


def test_uploads_are_answered_and_errors_are_sentences(browser, serve, uploads):
    running = serve()
    browser.visit(running.where, 1280)
    wait(browser, 'document.getElementById("about").innerText.includes("north, south, east, west")')
    assert "not a medical device" in text(browser, "about") + browser.evaluate("document.body.innerText")
    upload(browser, uploads["a.png"], uploads["=b.png"], uploads["rest.npz"])
    wait(browser, 'document.getElementById("said").innerText.includes("Batch 1 of default: 5 images")')
    shown = browser.evaluate("[...document.querySelectorAll('#predictions td.name')].map(e => e.innerText)")
    assert shown == ["a.png", "=b.png", "rest.npz [0]", "rest.npz [1]", "rest.npz [2]"]
    assert browser.evaluate("[...document.images].every(image => image.naturalWidth === 28)")
    labels = browser.evaluate("[...document.querySelectorAll('svg')].map(e => e.getAttribute('aria-label'))")
    assert [label.split(" over ")[0] for label in labels] == ["Shares of the encoder", "Shares of the head"]
    assert all("north" in label and "%" in label for label in labels)
    with running.client() as client:
        (kept,) = client.get("/v1/history").json()["batches"]
    shares = browser.evaluate("state.rows.at(-1).encoder")
    assert shares == kept["encoder"]

    upload(browser, uploads["cut.png"])
    wait(browser, 'document.getElementById("fault").innerText.includes("cut.png")')
    assert browser.evaluate("document.querySelectorAll('#predictions tbody tr').length") == 5
    expected = [event for event in browser.complaints() if "422" not in json.dumps(event)]
    assert expected == []  # the browser notes the refusal itself, and nothing else
    assert all(url.startswith(running.where) for url in browser.requests())

    upload(browser, uploads["a.png"])
    wait(browser, 'document.getElementById("said").innerText.includes("Batch 2")')
    assert text(browser, "fault") == ""
    rows = list(csv.DictReader(io.StringIO(browser.evaluate("predictionsCsv()"))))
    assert [row["batch"] for row in rows] == ["1"] * 5 + ["2"]
    assert rows[1]["image"] == "'=b.png"  # no formula in a spreadsheet
    numbers = browser.evaluate("state.answers[0].images[1].probabilities")
    assert {name: float(rows[1][f"p {name}"]) for name in numbers} == numbers
    browser.evaluate('document.getElementById("reset").click()')
    wait(browser, 'document.getElementById("said").innerText.includes("begins anew")')
    upload(browser, uploads["a.png"])
    wait(browser, 'document.getElementById("said").innerText.includes("Batch 1 ")')

    running.process.terminate()
    running.process.wait(60)
    upload(browser, uploads["a.png"])
    wait(browser, 'document.getElementById("fault").innerText.includes("does not answer")')


def test_samples_by_keyboard_on_a_phone(browser, serve):
    running = serve("--samples", "digits")
    browser.visit(running.where, 390)
    wait(browser, "document.querySelectorAll('#samples img').length === 32")
    for number in (0, 5):
        browser.evaluate(f"document.querySelectorAll('#samples button')[{number}].focus()")
        press(browser, "Enter", 13, "\r")
    pressed = browser.evaluate("document.querySelectorAll('#samples [aria-pressed=true]').length")
    assert pressed == 2
    for turn in (1, 2, 3):
        browser.evaluate('document.getElementById("send-samples").focus()')
        press(browser, "Enter", 13, "\r")
        wait(browser, f'document.getElementById("said").innerText.includes("Batch {turn} of default: 2 ")')
    assert browser.evaluate("document.scrollingElement.scrollWidth") == 390
    assert browser.evaluate("document.querySelectorAll('svg polygon').length") == 8
    nameless = browser.evaluate(
        "[...document.querySelectorAll('button, input')].filter(e => !e.innerText && !e.labels?.length"
        " && !e.ariaLabel).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert browser.complaints() == []


def test_a_token_is_asked_for(browser, serve, uploads):
    running = serve(token=True)
    browser.visit(running.where, 800)
    wait(browser, '!document.getElementById("access").hidden')
    for token, shown in (("wrong", "fault"), (running.token, "said")):
        browser.evaluate(f'document.getElementById("token").value = "{token}"')
        browser.evaluate('document.querySelector("#access button").click()')
        wait(browser, f'document.getElementById("{shown}").innerText.includes("token")')
    assert browser.evaluate('document.getElementById("access").hidden')
    upload(browser, uploads["a.png"])
    wait(browser, 'document.getElementById("said").innerText.includes("Batch 1")')
    assert not browser.evaluate("Object.keys(localStorage).length + Object.keys(sessionStorage).length")
