"""The documentation's notebooks: executed as they stand, in small; what is kept was executed in order."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest

from fedmerge.reports.figures import style
from scripts.notebooks import FOLDER, as_markdown, executed

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SMALL = {
    "quickstart": "changes = "
    "['training.rounds=1', 'training.epochs=1', 'training.fine_tune.epochs=1', 'model.options.width=4', "
    "'evaluation.streams=[iid, temporal]', 'diagnose=\"off\"']",
    "merge-your-own-models": "EPOCHS = 2",
    "adapt-on-a-stream": "ROUNDS = EPOCHS = 1",
}
"""What makes a notebook quick: its sizes."""
MOST_BYTES = 200_000
ids = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_every_notebook_has_a_small_version_and_a_place_on_the_site():
    assert {path.stem for path in NOTEBOOKS} == set(SMALL)
    nav = (FOLDER.parents[1] / "mkdocs.yml").read_text()
    for path in NOTEBOOKS:
        assert f"notebooks/{path.stem}.md" in nav
        assert sum("sizes" in cell["metadata"].get("tags", ()) for cell in code(path)) == 1


@ids
def test_what_is_kept_was_executed_from_top_to_bottom_and_is_small(path):
    """Where this fails: `python scripts/notebooks.py` executes them again."""
    cells = code(path)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    text = path.read_text()
    assert len(text.encode()) < MOST_BYTES
    assert not re.search(r"/(tmp|home|root|work)/", text)
    page = as_markdown(json.loads(text))
    assert page.count("](data:image/png;base64,") == text.count('"image/png"') > 0


@ids
def test_it_runs_and_shows_what_it_shows(path):
    """In small, with the same kinds of output from each cell."""
    pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'fedmerge[dev]'")
    again = executed(json.loads(path.read_text()), SMALL[path.stem])
    for cell, kept in zip((c for c in again["cells"] if c["cell_type"] == "code"), code(path), strict=True):
        shown, before = (
            [(each["output_type"], sorted(each.get("data", ()))) for each in outputs]
            for outputs in (cell["outputs"], kept["outputs"])
        )
        seen, expected = ([each for each in some if each[0] != "stream"] for some in (shown, before))
        assert seen == expected


def test_a_figure_shows_itself_without_pyplot():
    for made in (style.figure(4.0, 1.0, "One"), style.drawing(4.0, 1.0, "Two")[0]):
        shown = made._repr_png_()
        assert shown[1:4] == b"PNG"
        assert struct.unpack(">I", shown[16:20])[0] == round(4.0 * style.SCREEN)
