"""The commands that check whether results are as they were written, and sign them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmerge.cli.app import FAILED, Json, app, err, out, print_json, say

if TYPE_CHECKING:
    from fedmerge.experiment.folder.verify import Verified

Folder = Annotated[Path, typer.Argument(help="A run, a study, a folder in one, or a folder of models.")]


@app.command()
def verify(
    folder: Folder,
    key: Annotated[
        Path | None, typer.Option(help="The public key (Ed25519) that must have signed it, as server.pub.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare every file with its recorded digest: print changed, missing and unknown files.

    The exit code is 0 where everything is as it was written, 1 where it is not, 2 where nothing is recorded.
    """
    from fedmerge.experiment.folder.verify import verify as compare

    found = compare(folder, key)
    if as_json:
        print_json(found.record)
    else:
        _show(found)
    if not found.good:
        raise typer.Exit(FAILED)


@app.command()
def sign(
    folder: Annotated[Path, typer.Argument(help="A finished run or study.")],
    key: Annotated[Path, typer.Option(help="A private Ed25519 key, as of ssh-keygen -t ed25519.")],
) -> None:
    """Sign the manifest of a finished run or study, if its files are as they were written."""
    from fedmerge.storage.signature import sign as sign_folder

    say(out, f"signature: {sign_folder(folder, key)}")


def _show(found: Verified) -> None:
    from fedmerge.experiment.folder.verify import SIGNED

    check = found.check
    for sentence in check.sentences():
        say(err, sentence, style="red")
    for path in check.linked:
        say(err, f"note: {path} is a link; the files in it are as they were written, unless said above")
    for path in check.apart:
        say(err, f"note: {path} was added later and has a manifest of its own, which no signature is about")
    if not check.finished:
        say(err, f"note: the work on this {check.kind} is not finished; this is about what there is so far")
    wrong = len(check.changed) + len(check.missing) + len(check.unknown)
    said = "as they were written" if not wrong else f"{wrong} not as it was written"
    say(out, f"files:     {check.checked} checked, {said}")
    by = f" ({found.key})" if found.key else ""
    say(out, f"signature: {SIGNED[found.signature]}{by}")
