"""``inspect_deployed``: what the hospitals of a deployment report of their images, before training."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.hospital.inspection import MINIMUM
from fedmerge.federation.messages.jobs import InspectJob
from fedmerge.schema.validation import validate
from fedmerge.workflows.deployed import project
from fedmerge.workflows.flower_app import RunConfig


def inspect_deployed(
    server: Path, minimum: int = MINIMUM, patience: float = 300.0, checks: bool = False
) -> list[dict[str, Any]]:
    """Ask the admitted hospitals of a server; return what each reported, or the reason why not, by name.

    server: its folder; SuperLink and gate must be up. minimum: counts below it are not reported.
    checks: ask for what checks of the images find, too. Raises FedMergeError where no hospital was admitted,
    and where the run fails.
    """
    folder = ServerFolder(server)
    validate(InspectJob, {"minimum": minimum}, "inspect")
    if not folder.hospitals():
        raise FedMergeError("no hospital was admitted yet: `fedmerge deployment admit` lets one in.")
    with tempfile.TemporaryDirectory(dir=folder.path) as place:
        file = Path(place) / "inspection.json"
        given: dict[str, Any] = {
            "config": "",
            "inspect": str(file),
            "minimum": minimum,
            "patience": patience,
        }
        given |= {"checks": True} if checks else {}
        told = RunConfig.read(given | {"admitted": str(folder.admitted)}).model_dump(by_alias=True)
        run = folder.flower.submit(project(folder.path / "app"), told)
        try:
            folder.flower.wait(run)
        except KeyboardInterrupt:
            folder.flower.stop(run)
            raise
        return list(json.loads(file.read_text(encoding="utf-8")))
