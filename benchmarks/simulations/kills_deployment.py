"""A deployment whose programs are killed again and again, with kill -9: its models are those of a quiet one.

A server and two hospitals on this machine, each kept up as a service is: what ended is started again five
seconds later. A run of a few rounds is resumed whenever it ended; when it is finished, the next begins, until
there were so many kills. Who is killed, and when, is drawn:

    superlink    the server's SuperLink, with what it starts left alone
    server-app   the process that holds the run
    gate         the server's front door
    server       all of the server's programs at once, as when its machine loses its power
    supernode    a hospital's SuperNode
    hospital     all of a hospital's programs at once

    python -m benchmarks.simulations.kills_deployment --out benchmarks/results/kills-deployment.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import yaml
from safetensors.torch import load_file

from fedmerge import run
from fedmerge.data import build_cohort, read_cohort
from fedmerge.data.export import export
from fedmerge.experiment.folder.state import state_of
from fedmerge.federation.deployment.logs import lines
from fedmerge.federation.deployment.node_folder import NodeFolder
from fedmerge.federation.deployment.server_folder import ServerFolder
from fedmerge.federation.deployment.serving import free_port
from fedmerge.models import state_hash
from fedmerge.seeding import numpy_generator

HOSPITALS = ("north", "harbour")
SERVER, HOSPITAL = ("superlink", "server-app", "gate", "server"), ("supernode", "hospital")
COMMAND = [sys.executable, "-m", "fedmerge", "deployment"]
RESTART = 5.0  # seconds, as RestartSec= of a service
WAITS = (0.0, 15.0)  # seconds from a hospital's answer after the last kill to the next, at least


class Service:
    """``fedmerge deployment start FOLDER``, started again whenever it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.starts, self.ended = folder, 0, threading.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep_up, daemon=True)
        self._thread.start()

    def _keep_up(self) -> None:
        while not self.ended.is_set():
            with (self.folder.parent / f"{self.folder.name}.out").open("ab") as said:
                command = [*COMMAND, "start", str(self.folder)]
                self.process = subprocess.Popen(command, stdout=said, stderr=said)
            self.starts += 1
            self.process.wait()
            self.ended.wait(RESTART)

    def programs(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        with contextlib.suppress(psutil.NoSuchProcess, AttributeError):
            me = psutil.Process(self.process.pid)
            return [me, *me.children(recursive=True)]
        return []

    def close(self) -> None:
        self.ended.set()
        if self.process is not None:
            self.process.terminate()
        self._thread.join(30)


def victims(kind: str, server: Service, hospital: Service) -> list[psutil.Process]:
    """Return the processes that a kill of this kind hits; empty where they are not running."""
    words = {
        "superlink": "flower-superlink", "server-app": "flwr-serverapp", "gate": "deployment.gate",
        "supernode": "deployment.supernode",
    }  # fmt: skip
    service = server if kind in SERVER else hospital
    found = service.programs()
    if kind in ("server", "hospital"):
        return found
    return [each for each in found if words[kind] in " ".join(_command(each))]


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


def prepare(folder: Path, rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two hospitals with their images and one unseen; the experiment in one place, and for a deployment."""
    server = yaml.safe_load(export(build_cohort(read_cohort("digits-scanners"), 0), folder).read_text())
    kept = [site for site in server["sites"] if site["name"] in HOSPITALS or site.get("unseen")]
    together = [
        site if site.get("unseen") else {"name": site["name"], "source": f"npz:{site['name']}/images.npz"}
        for site in kept
    ]
    (folder / "remote.yaml").write_text(yaml.safe_dump(server | {"sites": kept}))
    (folder / "together.yaml").write_text(yaml.safe_dump(server | {"sites": together}))
    training = {"rounds": rounds, "epochs": 1, "fine_tune": {"epochs": 1}}
    plain = {
        "name": "kills", "model": {"name": "small-cnn", "options": {"norm": "group"}}, "seeds": [0],
        "training": training, "fusion": ["mean"], "testtime": [], "evaluation": {"streams": ["iid"]},
        "threads": 1,
    }  # fmt: skip
    return plain | {"cohort": str(folder / "together.yaml")}, plain | {"cohort": str(folder / "remote.yaml")}


def hashes(folder: Path) -> dict[str, str]:
    """Hash every model of a run, without journals and the pooled model, which a deployment cannot train."""
    files = sorted(path for path in folder.rglob("*.safetensors") if path.stem != "pooled")
    kept = [path for path in files if "journal" not in path.parts]
    return {str(path.relative_to(folder)): state_hash(load_file(path)) for path in kept}


class Killer(threading.Thread):
    """Kills while a run is at work, some seconds after a hospital has answered, until there were enough."""

    def __init__(
        self, seed: int, kills: int, minutes: float, server: Service, hospitals: dict[str, Service]
    ) -> None:
        super().__init__(daemon=True)
        self.rng, self.left = numpy_generator(seed, "kills of a deployment"), kills
        self.server, self.hospitals = server, hospitals
        self.done: list[dict[str, Any]] = []
        self.place: Path | None = None
        self.until = time.monotonic() + 60 * minutes
        self.ended = threading.Event()

    def run(self) -> None:
        while self.left and not self.ended.is_set() and time.monotonic() < self.until:
            side = SERVER if self.rng.random() < 0.5 else HOSPITAL
            kind = side[int(self.rng.integers(len(side)))]
            name = HOSPITALS[int(self.rng.integers(len(HOSPITALS)))]
            answers = self._answers()
            while self._answers() == answers:
                if self.ended.wait(0.5) or time.monotonic() > self.until:
                    return
            self.ended.wait(float(self.rng.uniform(*WAITS)))
            while not self._can(kind, name):
                if self.ended.wait(0.5) or time.monotonic() > self.until:
                    return
            self._kill(kind, name)

    def _can(self, kind: str, name: str) -> bool:
        found = state_of(self.place) if self.place is not None and self.place.is_dir() else None
        at_work = found is not None and found.state == "running"
        return at_work and bool(victims(kind, self.server, self.hospitals[name]))

    def _answers(self) -> int:
        """How many answers of hospitals the server's log has."""
        return sum("Push replies" in line for line in lines([self.server.folder / "superlink.log"]))

    def _kill(self, kind: str, name: str) -> None:
        found = state_of(self.place) if self.place is not None else None
        faults_for = victims(kind, self.server, self.hospitals[name])
        for process in faults_for:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.left -= 1
        whose = name if kind in HOSPITAL else "server"
        entry = {"kind": kind, "at": whose, "processes": len(faults_for)}
        entry["while"] = found.words if found else ""
        self.done.append(entry)
        print(f"kill {len(self.done)}: {entry}", flush=True)


def deployed(server: Path, config: Path, place: Path, patience: float) -> int:
    """Run the deployment to its end, resumed whenever it ended before; return how often it was started."""
    tries = 0
    while True:
        tries += 1
        found = state_of(place)
        if found is not None and found.state == "finished":
            return tries - 1
        if found is None:
            shutil.rmtree(place, ignore_errors=True)
        given = ["--resume", str(place)] if found else [str(config), "--out", str(place)]
        command = [*COMMAND, "run", str(server), *given, "--patience", str(patience)]
        with place.with_suffix(".out").open("ab") as said:
            done = subprocess.run(command, stdout=said, stderr=said)
        if done.returncode == 0:
            return tries
        time.sleep(RESTART)


def main() -> None:
    """Kill, compare, and write it down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=1e6, help="No kill after so many.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help="Where to, instead of a temporary folder; it stays.")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        here, remote = prepare(work / "images", given.rounds)
        config = work / "remote.yaml"
        config.write_text(yaml.safe_dump(remote))
        (work / "here.yaml").write_text(yaml.safe_dump(here))
        run(work / "here.yaml", out=work / "here")
        expected = hashes(work / "here")
        result = measure(work, config, expected, given)
    text = json.dumps(result, indent=1) + "\n"
    print(text)
    if given.out:
        given.out.write_text(text)
    if not all(each["same bits"] for each in result["runs"]):
        sys.exit("the bits are not the same")


def measure(work: Path, config: Path, expected: dict[str, str], given: argparse.Namespace) -> dict[str, Any]:
    """Start all, and run with kills; compare every run's models with those of one undisturbed process."""
    server = ServerFolder.make(work / "server", ["127.0.0.1"], "127.0.0.1", free_port(), free_port())
    services = {"server": Service(server.path)}
    runs: list[dict[str, Any]] = []
    began = time.monotonic()
    try:
        wait_for(lambda: server.flower.nodes() == {}, 900)
        for name in HOSPITALS:
            node = NodeFolder.make(
                work / f"node-{name}", name, work / "images" / name / f"{name}.yaml",
                f"127.0.0.1:{server.settings.port}", server.authority,
            )  # fmt: skip
            (node.path / "policy.yaml").write_text("approval: any\n")  # nobody is there to approve
            server.admit(name, node.public_key)
            services[name] = Service(node.path)
        killer = Killer(given.seed, given.kills, given.minutes, services["server"], services)
        killer.start()
        for number in range(1 + given.kills):
            place = work / f"run-{number}"
            before, start = len(killer.done), time.monotonic()
            killer.place = place
            tries = deployed(server.path, config, place, 300.0)
            found = hashes(place)
            state = state_of(place)
            entry = {"kills": len(killer.done) - before, "resumed": tries - 1, "same bits": found == expected}
            entry |= {"models": len(found), "seconds": round(time.monotonic() - start)}
            entry["failures of hospitals"] = len(state.failures) if state else -1
            runs.append(entry)
            print(f"run {number}: {entry}", flush=True)
            if not killer.is_alive():
                break
        killer.ended.set()
    finally:
        for service in reversed(services.values()):
            service.close()
    return {
        "hospitals": len(HOSPITALS), "rounds": given.rounds, "seed": given.seed, "kills": len(killer.done),
        "by kind": dict(Counter(kill["kind"] for kill in killer.done)),
        "runs that were killed": sum(run["kills"] > 0 for run in runs),
        "same bits": all(run["same bits"] for run in runs),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "runs": runs, "each kill": killer.done,
    }  # fmt: skip


def wait_for(ready: Any, seconds: float) -> None:
    """Wait until ``ready()``, which may fail."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(Exception):
            if ready():
                return
        time.sleep(1)
    sys.exit("the server does not come up")


if __name__ == "__main__":
    main()
