"""Try hostile answers: what becomes of a federation of four hospitals, one of which sends them.

For every answer in `hostile_answers.py` a real federation runs, in this process, with a tiny network.
Counted: how many ended the run, how many were believed (another model than without the hospital, or another
history), and how many were refused and recorded; and the slowest. Run
`python -m benchmarks.simulations.hostile_messages --out benchmarks/results/hostile-messages.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message

from benchmarks.simulations.hostile_answers import EVALUATE, GREETING, TRAIN
from benchmarks.simulations.hostile_changes import Spoil
from fedmerge.data import Arrays, CohortSpec, Site, SiteSpec, build_cohort
from fedmerge.federation import FederationOptions, FederationPlan, Hospital, LocalGrid, Server, client_app
from fedmerge.federation.server.failures import Failure
from fedmerge.models import ModelSpec, Normalisation, state_hash
from fedmerge.training import TrainingOptions

NAMES, HOSTILE = ("alpha", "beta", "delta", "gamma"), "delta"
HONEST = tuple(name for name in NAMES if name != HOSTILE)
KINDS = {"query": GREETING, "train": TRAIN, "evaluate": EVALUATE}
PHASES = {"query": "greeting", "train": "train", "evaluate": "validate"}


@lru_cache(maxsize=1)
def sites() -> tuple[Site, ...]:
    """Four hospitals with 36 images of 8 x 8."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (36, 8, 8)).astype(np.uint8) for _ in NAMES]
    specs = [
        SiteSpec(name=name, source=Arrays(each, np.arange(36) % 3))
        for name, each in zip(NAMES, images, strict=True)
    ]
    return build_cohort(CohortSpec(name="four", title="Four", sites=tuple(specs)), seed=0).sites


def plan_of(**rules: Any) -> FederationPlan:
    """One round of one epoch."""
    return FederationPlan(
        model=ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 2}),
        normalisation=Normalisation.named("half"),
        seed=0,
        rounds=1,
        local=TrainingOptions(lr=0.05, batch_size=12),
        fine_tune=None,
        federation=FederationOptions(**rules),
    )


class Spoilt(LocalGrid):
    """A grid on which one node's replies to one kind of message go through ``spoil``."""

    def __init__(self, app: Any, n: int, node: int, kind: str, spoil: Spoil | None) -> None:
        super().__init__(app, n)
        self.node, self.kind, self.spoil = self.get_node_ids()[node], kind, spoil

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
        for message in messages:
            for reply in super().send_and_receive([message]):
                kind = message.metadata.message_type
                hostile = reply.metadata.src_node_id == self.node and kind == self.kind
                other = self.spoil(reply) if hostile and self.spoil else None
                yield other if isinstance(other, Message) else reply


@dataclass
class Run:
    """The outcome of a federation. rows: its history, without clocks."""

    state: Any
    rows: list[dict[str, Any]]
    failures: list[Failure]


def federate(
    names: tuple[str, ...] = NAMES,
    kind: str = "",
    spoil: Spoil | None = None,
    *,
    vouched: bool = True,
    then: Any = None,
    **rules: Any,
) -> Run:
    """Run a federation of these hospitals; vouched: the server knows which node is whose.

    then: what is done with the server instead of the rounds.
    """
    chosen = [site for site in sites() if site.name in names]
    hospitals = [Hospital(site) for site in chosen]
    app = client_app(lambda context: hospitals[int(context.node_config["partition-id"])])
    node = names.index(HOSTILE) if HOSTILE in names else 0
    grid = Spoilt(app, len(chosen), node, kind, spoil)
    admitted = dict(zip(grid.get_node_ids(), names, strict=True)) if vouched else None
    server = Server(grid, plan_of(**rules), list(names), admitted=admitted)
    state = server.rounds(server.start()) if then is None else then(server)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in server.strategy.history]
    return Run(state, rows, server.strategy.failures)


@lru_cache(maxsize=4)
def without_it(kind: str) -> Run:
    """Return the run that a hostile answer to ``kind`` must not change: without the hospital, or with all."""
    return federate() if kind == "evaluate" else federate(HONEST)


def untouched(kind: str, run: Run) -> bool:
    """Whether model and history are as they would be without the hostile answer."""
    honest = without_it(kind)
    others = [[row for row in each.rows if row["site"] != HOSTILE] for each in (run, honest)]
    own = [(row["phase"], row["site"]) for row in run.rows if row["site"] not in HONEST]
    allowed = {"query": [], "train": [("validate", HOSTILE)], "evaluate": [("train", HOSTILE)]}[kind]
    names = {name for row in run.rows for name in row} <= {name for row in honest.rows for name in row}
    same = json.dumps(others[0]) == json.dumps(others[1])
    return state_hash(run.state) == state_hash(honest.state) and same and own == allowed and names


def became(kind: str, spoil: Spoil) -> tuple[str, float]:
    """Return ``refused``, ``believed`` or ``ended the run``, and the seconds that the federation took."""
    began = time.perf_counter()
    try:
        run = federate(kind=kind, spoil=spoil)
    except Exception:
        return "ended the run", time.perf_counter() - began
    seconds = time.perf_counter() - began
    told = [(failure.site, failure.phase, failure.kind) for failure in run.failures]
    right = untouched(kind, run) and told == [(HOSTILE, PHASES[kind], "refused")]
    return "refused" if right else "believed", seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for kind, attacks in KINDS.items():
        found = {name: became(kind, spoil) for name, spoil in attacks.items()}
        figures[kind] = {
            "tried": len(found),
            "refused": sum(what == "refused" for what, _ in found.values()),
            "believed": [name for name, (what, _) in found.items() if what == "believed"],
            "ended the run": [name for name, (what, _) in found.items() if what == "ended the run"],
            "slowest_s": round(max(seconds for _, seconds in found.values()), 2),
        }
        print(kind, figures[kind], flush=True)
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
