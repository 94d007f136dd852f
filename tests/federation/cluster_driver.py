"""A program that attaches to a cluster, runs the same experiment in several ways, and writes what came out.

python cluster_driver.py OUT HOST:PORT CLIENT-PORT PID: of the process group to kill in the middle of a round.
"""

import json
import os
import signal
import sys
from pathlib import Path

import fedmerge as fm
from fedmerge.data import CohortSpec, SiteSpec
from fedmerge.models import ModelPool, state_hash

EXPERIMENT = {
    "name": "cluster",
    "cohort": CohortSpec(
        name="four",
        source="digits",
        sites=(*(SiteSpec(name=f"h{i}") for i in range(4)), SiteSpec(name="new", unseen=True)),
    ),
    "model": {"name": "small-cnn", "options": {"width": 4}},
    "threads": 1,
    "training": {"rounds": 3, "epochs": 6, "lr": 0.05, "batch_size": 12, "fine_tune": {"epochs": 1}},
    "fusion": ["mean"],
    "evaluation": {"streams": ["iid"]},
}
TRAININGS = 4  # in a round
LONG = 60  # epochs of a training that takes several looks at its progress


def outcome(result):
    """Hashes of the hospitals' models, failures, and who trained in which round."""
    pool = ModelPool(result.folder / "seed-0" / "federation" / "pool", create=False)
    trained = result.history[result.history.phase == "train"]
    return {
        "hashes": [state_hash(pool.state(f"h{i}")) for i in range(4)],
        "failures": result.failures.to_dict("records"),
        "trained": {str(round): sorted(rows.site) for round, rows in trained.groupby("round")},
    }


def main(out, cluster, client_port, group):
    told = {"local": outcome(fm.run(EXPERIMENT, out=Path(out, "local")))}

    def attached(name, address, progress=None, changes=()):
        backend = fm.BackendConfig(kind="ray", address=address, workers=2)
        result = fm.run(EXPERIMENT, changes=changes, out=Path(out, name), backend=backend, progress=progress)
        told[name] = outcome(result)

    attached("client", f"ray://127.0.0.1:{client_port}")
    alive = [int(group)]

    def kill(stage, done, total):
        """When the first of round 2's trainings has begun: they take seconds, so both workers are at one."""
        if "training" in stage and done > TRAININGS and alive:
            os.killpg(alive.pop(), signal.SIGKILL)

    attached("killed", cluster, kill, [f"training.epochs={LONG}"])
    Path(out, "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
