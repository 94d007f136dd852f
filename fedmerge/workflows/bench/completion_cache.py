"""The receipt of a finished study: it shows at once that the same request has nothing left to do.

Nothing heavy is imported here: `fedmerge bench` reads the receipt before it loads the training code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedmerge.storage.contents import stamp_of
from fedmerge.storage.files import Damaged, read_sealed, write_text
from fedmerge.version import package_version

NAME = "receipt.json"
CompletionCache = dict[str, Any]


def request_of(source: str | Path, changes: Sequence[str], plugins: Sequence[str] = ()) -> str:
    """Return the request as text: study, changes and plug-ins, working directory, version of FedMerge."""
    return json.dumps([str(source), list(changes), list(plugins), str(Path.cwd()), package_version()])


def digests(files: Iterable[Path]) -> dict[str, str]:
    """Return the content of configurations, by their paths."""
    return {str(path.resolve()): _digest(path) for path in files}


def write(
    folder: Path,
    request: str,
    read: Mapping[str, str],
    data: Iterable[Path],
    jobs: Iterable[str],
    summary: CompletionCache,
) -> None:
    """Write the receipt: the request, the configurations read, the images, the jobs settled and the summary.

    read: what ``digests`` gave when they were read: they may have changed meanwhile. data: files and folders
    of images, by their stamps: looking at each is quick.
    """
    completion_cache = {
        "request": request,
        "files": dict(read),
        "data": {str(path): stamp_of(path) for path in dict.fromkeys(data)},
        "settled": sorted(jobs),
        "results": _state(folder / "results.parquet"),
        **summary,
    }
    write_text(folder / NAME, json.dumps(completion_cache))


def add(folder: Path, known: CompletionCache) -> None:
    """Add fields to a study's receipt, if the study has one."""
    from fedmerge.storage.manifest import rewrite

    path = folder / NAME
    if path.is_file():
        rewrite(path, json.dumps(json.loads(path.read_text(encoding="utf-8")) | known))


def valid(folder: Path, request: str) -> CompletionCache | None:
    """Return the receipt if request, input files and everything it names are unchanged; else None."""
    try:
        completion_cache: CompletionCache = json.loads((folder / NAME).read_text(encoding="utf-8"))
        same = (
            completion_cache["request"] == request
            and completion_cache["results"] == _state(folder / "results.parquet")
            and all(_digest(Path(path)) == digest for path, digest in completion_cache["files"].items())
            and all(stamp_of(Path(path)) == stamp for path, stamp in completion_cache["data"].items())
            and set(completion_cache["settled"]) <= set(os.listdir(folder / "jobs"))
            and _as_written(folder)
        )
    except (OSError, ValueError, KeyError, TypeError, Damaged):
        return None
    return completion_cache if same else None


def _as_written(folder: Path) -> bool:
    """Whether the manifest is closed and the receipt, the table and the report are as it lists them."""
    manifest = read_sealed(folder / "manifest.json")
    told = [NAME, "results.parquet", "report.html"]
    return not manifest["open"] and all(
        _digest(folder / name) in (manifest["files"].get(name), manifest["pending"].get(name))
        for name in told
        if name != "report.html" or (folder / name).exists()
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
