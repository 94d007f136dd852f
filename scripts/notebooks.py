"""Execute the documentation's notebooks, and write them with their outputs: ``python scripts/notebooks.py``.

Name some for these alone. The site shows what is written; tests execute every notebook anew, in small.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
SECONDS, COLOURS = 1200, 64


def main(argv: Sequence[str] | None = None) -> None:
    """Execute the named notebooks, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="without .ipynb; all by default")
    for name in parser.parse_args(argv).names or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        path = FOLDER / f"{name}.ipynb"
        write(path, executed(json.loads(path.read_text(encoding="utf-8"))))


def executed(notebook: dict[str, Any], sizes: str = "") -> dict[str, Any]:
    """Return a notebook with the outputs of its cells, executed in an empty folder.

    sizes: Python that stands after the cell that is tagged ``sizes``. Raises nbclient's CellExecutionError.
    """
    import nbformat
    from nbclient import NotebookClient

    made = nbformat.reads(json.dumps(notebook), as_version=4)
    for cell in made.cells:
        if sizes and "sizes" in cell.metadata.get("tags", ()):
            cell.source += f"\n{sizes}"
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(made, timeout=SECONDS, kernel_name="python3", resources=place).execute()
    found: dict[str, Any] = json.loads(nbformat.writes(made))
    return found


def write(path: Path, notebook: dict[str, Any]) -> None:
    """Write a notebook with small pictures, and without what differs from one execution to the next."""
    for cell in notebook["cells"]:
        cell["metadata"].pop("execution", None)
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = _smaller("".join(data["image/png"]))
    notebook["metadata"]["language_info"] = {"name": "python"}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _smaller(picture: str) -> str:
    """Return a PNG, in base64, with a palette of few colours."""
    shown = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    file = io.BytesIO()
    shown.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def as_markdown(notebook: dict[str, Any]) -> str:
    """Return a notebook as a page: words, code, and what it printed; pictures are part of the page."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _parts(cell)) + "\n"


def _parts(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            drawn = source.strip().splitlines()[-1].replace("[", "").replace("]", "")
            yield f"![Drawn by {drawn}](data:image/png;base64,{''.join(data['image/png']).strip()})"
        elif "text/html" in data:
            yield re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
        else:
            text = "".join(output.get("text") or data.get("text/plain", ""))
            yield f"```text\n{text.rstrip()}\n```"


if __name__ == "__main__":
    main()
