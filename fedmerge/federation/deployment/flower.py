"""Flower's command line as functions that report failures: ``flwr run`` exits with 0 for a failed run."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmerge.errors import FedMergeError
from fedmerge.federation.deployment.links import tasks

DONE = "finished:completed"
PAUSE = 4.0  # seconds between two checks of a run by Flower's command, which takes a second or two
TRIES = 3  # calls for a status before the SuperLink counts as gone
LOOK, ASK = 1.0, 30.0  # seconds between two checks by the database, and by the SuperLink then


@dataclass(frozen=True)
class Flower:
    """``flwr`` with a configuration folder (``FLWR_HOME`` in ``env``) and the name of a connection in it.

    database: of the SuperLink, if it is on this machine.
    """

    env: Mapping[str, str]
    connection: str
    database: Path | None = None

    def submit(
        self, app: Path, run_config: Mapping[str, Any], federation_config: Mapping[str, Any] | None = None
    ) -> int:
        """Submit a run of the app in a folder; return its id. Raises FedMergeError with Flower's message."""
        command = ["run", str(app), self.connection, "-c", _as_toml(run_config)]
        if federation_config:
            command += ["--federation-config", _as_toml(federation_config)]
        output = self._ask(command)
        return int(output["run-id"])

    def status(self, run: int) -> tuple[str, str]:
        """Return the status of a run, such as ``running`` or ``finished:completed``, and details in words."""
        output = self._ask(["list", self.connection, "--run-id", str(run)])
        (found,) = output["runs"]
        return str(found["status"]), str(found["status-details"])

    def wait(
        self, run: int, patience: float | None = None, seen: Callable[[str], None] | None = None
    ) -> None:
        """Wait for the end of a run. Raises FedMergeError unless it completed, or after ``patience`` seconds.

        seen: called with the status at each check.
        """
        began = time.monotonic()
        asked = -ASK
        while True:
            known = tasks(self.database).get(run) if self.database is not None else None
            if known is None or time.monotonic() - asked > ASK:
                status, details = self._status(run)
                asked = time.monotonic()
            else:
                status, details = known.status, known.details
            if seen is not None:
                seen(status)
            if status == DONE:
                return
            if status.startswith("finished"):
                raise FedMergeError(f"the run ended as '{status}': {details}")
            if patience is not None and time.monotonic() - began > patience:
                raise FedMergeError(f"the run is still '{status}' after {patience:.0f} seconds.")
            time.sleep(PAUSE if known is None else LOOK)

    def _status(self, run: int) -> tuple[str, str]:
        """Return the status of a run; a SuperLink that is busy for a moment is asked again.

        Raises FedMergeError if the SuperLink is gone.
        """
        for _ in range(TRIES - 1):
            with suppress(FedMergeError):
                return self.status(run)
            time.sleep(PAUSE)
        return self.status(run)

    def stop(self, run: int) -> None:
        """Stop a run."""
        self._ask(["stop", str(run), self.connection])

    def log(self, run: int) -> str:
        """Return the log of the server's app."""
        return self._run(["log", str(run), self.connection, "--show"]).stdout

    def register(self, public_key: Path, name: str) -> int:
        """Register the node with this key; return its node id."""
        return int(
            self._ask(["supernode", "register", str(public_key), self.connection, "--name", name])["node-id"]
        )

    def unregister(self, node: int) -> None:
        """Unregister a node; its open messages fail. Does nothing for an unknown node."""
        try:
            self._ask(["supernode", "unregister", str(node), self.connection])
        except FedMergeError as error:
            if "Node ID not found" not in str(error):
                raise

    def nodes(self) -> dict[int, str]:
        """Return the status (``registered``, ``online``, ``offline``) of every known node, by node id."""
        found = self._ask(["supernode", "list", self.connection])["nodes"]
        return {int(node["node-id"]): str(node["status"]) for node in found}

    def _ask(self, command: Sequence[str]) -> dict[str, Any]:
        done = self._run([*command, "--format", "json"])
        found = done.stdout[done.stdout.find("{") :]
        try:
            output = dict(json.loads(found))
        except ValueError:
            output = {"success": False, "error-message": f"{done.stdout} {done.stderr}".strip()}
        if not output.get("success"):
            said = " ".join(str(output.get("error-message", found)).split())
            raise FedMergeError(f"flwr {command[0]} was refused: {said}")
        return output

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["flwr", *command], env=dict(self.env), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )


def connection(name: str, address: str, authority: Path | None) -> str:
    """Return a config.toml for Flower with one connection; without an authority it is not encrypted."""
    how = (
        "insecure = true"
        if authority is None
        else f"root-certificates = {json.dumps(str(authority.resolve()))}"
    )
    return f'[superlink]\ndefault = "{name}"\n\n[superlink.{name}]\naddress = "{address}"\n{how}\n'


def _as_toml(values: Mapping[str, Any]) -> str:
    """Return ``key=value`` pairs as Flower's command line reads them. Raises FedMergeError for quotes."""
    pairs = []
    for key, value in values.items():
        if isinstance(value, str) and '"' in value:
            raise FedMergeError(f"{key}={value}: Flower's command line takes no double quotes here.")
        pairs.append(f"{key}={json.dumps(value, ensure_ascii=False)}")
    return " ".join(pairs)
