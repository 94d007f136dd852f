"""A stranger's path, timed: a wheel, an empty environment, folders of images, a run, a service, a browser.

``python -m benchmarks.strangers_path --out docs/from-install-to-browser.md`` builds the wheel, installs it
into a new environment (several GB), goes the way that the page describes, and writes the page's two tables
and two screenshots. Images: PneumoniaMNIST (CC BY 4.0) under FEDMERGE_DATA, divided over three hospitals.
``--environment VENV`` takes one that has the wheel, and leaves what installing took as it stands.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import RESULTS, ROOT
from benchmarks.pages import fill, markdown

SHOWN = RESULTS / "strangers-path.json"
LIGHT = {"north": 1.0, "harbour": 0.85, "hillcrest": 1.1}
"""The hospitals, and how bright each one's images are."""
A_CLASS, WIDTH, COLOURS = 120, 900, 128
SECONDS = 120.0
EDGE = "document.getElementById('{}').getBoundingClientRect().{} + scrollY"
STEPS = {
    "environment": "`python3 -m venv .venv`",
    "install": "`pip install 'fedmerge-….whl[serve]'`",
    "new": "`fedmerge new study north=… harbour=… hillcrest=…`",
    "check": "`fedmerge sites check sites/hospitals.yaml`",
    "dry-run": "`fedmerge run experiment.yaml --dry-run`",
    "run": "`fedmerge run experiment.yaml`",
    "serve": "`fedmerge serve runs/study-001 --samples run`, until it listens",
    "predict": "16 images dropped on the page, until their predictions stand there",
}


class Seconds(dict[str, float]):
    """Seconds by step."""

    @contextmanager
    def timed(self, step: str) -> Any:
        """Note what a step takes."""
        begun = time.monotonic()
        yield
        self[step] = round(time.monotonic() - begun, 1)


def install(folder: Path, seconds: Seconds) -> Path:
    """Build the wheel and install it into a new environment; return that."""
    environment = folder / ".venv"
    with seconds.timed("environment"):
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "pip"), "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("fedmerge-*.whl")
    with seconds.timed("install"):
        subprocess.run([*pip, "install", f"{wheel}[serve]"], check=True)
    return environment


def write_images(folder: Path, data: Path) -> None:
    """Write three hospitals' folders, ``HOSPITAL/CLASS/NUMBER.png``."""
    with np.load(data) as file:
        images, labels = file["train_images"], file["train_labels"].ravel()
    for position, (hospital, light) in enumerate(LIGHT.items()):
        for label, name in enumerate(("normal", "pneumonia")):
            (folder / hospital / name).mkdir(parents=True)
            for row in np.flatnonzero(labels == label)[position * A_CLASS : (position + 1) * A_CLASS]:
                pixels = (images[row] * light).clip(0, 255).astype("uint8")
                Image.fromarray(pixels).save(folder / hospital / name / f"{row}.png")


def go(desk: Path, environment: Path, seconds: Seconds, pictures: Path) -> str:
    """Go the path in an empty folder with ``images/``; return what the run printed."""
    home = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "FEDMERGE_DATA")}
    home |= {"COLUMNS": "80"}
    command = str(environment / "bin" / "fedmerge")

    def fedmerge(step: str, *words: str, place: Path, code: int = 0) -> str:
        with seconds.timed(step):
            done = subprocess.run([command, *words], cwd=place, env=home, capture_output=True, text=True)
        if done.returncode > code:
            raise SystemExit(f"fedmerge {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    study = desk / "study"
    fedmerge("new", "new", "study", *(f"{name}=images/{name}" for name in LIGHT), place=desk)
    fedmerge("check", "sites", "check", "sites/hospitals.yaml", place=study, code=1)
    fedmerge("dry-run", "run", "experiment.yaml", "--dry-run", place=study)
    printed = fedmerge("run", "run", "experiment.yaml", place=study)
    begun = time.monotonic()
    serving = subprocess.Popen(
        [command, "serve", "runs/study-001", "--samples", "run", "--port", "0"],
        cwd=study, env=home, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert serving.stdout is not None
        where = serving.stdout.readline().split()[0]
        seconds["serve"] = round(time.monotonic() - begun, 1)
        look(desk, study / "runs" / "study-001" / "report.html", where, seconds, pictures)
    finally:
        serving.terminate()
        serving.wait(60)
    return printed


def look(desk: Path, report: Path, where: str, seconds: Seconds, pictures: Path) -> None:
    """Open the report and the service's page in a browser; send images; take the screenshots."""
    from tests.browser import Browser

    pictures.mkdir(parents=True, exist_ok=True)
    browser = Browser(desk / "profile")
    try:
        browser.visit(report.as_uri(), WIDTH)
        screenshot(browser, pictures / "report.png", 0, 1000)
        browser.visit(where, WIDTH)
        files = sorted((desk / "images" / "hillcrest").rglob("*.png"))
        for batch in range(6):
            chosen = np.random.default_rng(batch).choice(len(files), 16, replace=False)
            with seconds.timed("predict" if batch == 0 else "later"):
                send(browser, [files[each] for each in chosen])
                until(browser, f'document.getElementById("said").innerText.includes("Batch {batch + 1} ")')
        seconds.pop("later")
        edges = (browser.evaluate(EDGE.format(*each)) for each in (("said", "top"), ("past", "bottom")))
        screenshot(browser, pictures / "serve.png", *edges)
    finally:
        browser.close()


def send(browser: Any, files: Sequence[Path]) -> None:
    """Choose files as a person does."""
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    browser.call("DOM.setFileInputFiles", files=[str(path) for path in files], nodeId=node)


def until(browser: Any, truth: str) -> None:
    """Wait until an expression is true on the page."""
    end = time.monotonic() + SECONDS
    while not browser.evaluate(truth):
        if time.monotonic() > end:
            raise SystemExit(
                f"the page never came to: {truth}\n{browser.evaluate('document.body.innerText')}"
            )
        time.sleep(0.05)


def screenshot(browser: Any, path: Path, top: float, bottom: float) -> None:
    """Write a part of the page as a small PNG."""
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top, "scale": 1}
    found = browser.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    shown = Image.open(io.BytesIO(base64.b64decode(found["data"]))).convert("RGB")
    shown.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def blocks(seconds: dict[str, float], printed: str) -> dict[str, str]:
    """Return what stands between the page's markers."""
    rows = [[words, f"{seconds[step]:.1f}"] for step, words in STEPS.items()]
    rows.append(["all of it", f"{sum(seconds[step] for step in STEPS):.0f}"])
    table = re.split(r"^(?:answer|report|results):", printed, flags=re.MULTILINE)[0].strip("\n")
    answer = re.search(r"^answer: *(.*)$", printed, re.MULTILINE)
    said = answer[1] if answer else ""
    return {"seconds": markdown(["step", "seconds"], rows), "printed": f"```text\n{table}\n```\n\n> {said}"}


def main(argv: Sequence[str] | None = None) -> None:
    """Go the path, and write the page's blocks and pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--environment", type=Path, help="an environment that has the wheel and its extra serve"
    )
    parser.add_argument("--out", type=Path, required=True, help="the page")
    args = parser.parse_args(argv)
    kept = json.loads(SHOWN.read_text(encoding="utf-8")) if SHOWN.is_file() else {}
    seconds = Seconds(kept.get("seconds", {}))
    with tempfile.TemporaryDirectory() as folder:
        desk = Path(folder)
        environment = args.environment or install(desk, seconds)
        write_images(desk / "images", Path(os.environ["FEDMERGE_DATA"]) / "pneumoniamnist.npz")
        printed = go(desk, environment.absolute(), seconds, args.out.with_suffix(""))
    SHOWN.write_text(json.dumps({"seconds": seconds}, indent=1) + "\n", encoding="utf-8")
    args.out.write_text(
        fill(args.out.read_text(encoding="utf-8"), blocks(seconds, printed)), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
