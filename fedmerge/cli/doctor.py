"""``fedmerge doctor``: what is found on this machine, and what would not work."""

from __future__ import annotations

from dataclasses import asdict

import typer

from fedmerge.cli.app import FAILED, Json, app, out, print_json, say

MARKS = {"good": "  ok  ", "note": " note ", "bad": " BAD  "}
STYLES = {"good": None, "note": "yellow", "bad": "red"}


@app.command()
def doctor(as_json: Json = False) -> None:
    """Look at this machine: versions, devices, data, Ray, Flower, locale, disk, extras.

    The exit code is 1 where something will not work, else 0.
    """
    from fedmerge.experiment.folder.doctor import findings

    found = list(findings())
    if as_json:
        print_json([asdict(finding) for finding in found])
    else:
        width = max(len(finding.what) for finding in found)
        for finding in found:
            line = f"{MARKS[finding.level]} {finding.what:{width}}  {finding.words}"
            say(out, line, style=STYLES[finding.level])
    if any(finding.level == "bad" for finding in found):
        raise typer.Exit(FAILED)
