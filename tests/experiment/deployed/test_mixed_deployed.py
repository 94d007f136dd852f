"""Hospitals as they are, each a node with its own files: DICOM, a table, TIFF; the bits of one place."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from fedmerge.data import build_cohort, read_cohort
from fedmerge.federation.deployment.serving import start_node
from fedmerge.federation.policy.rules import NUMBERS
from fedmerge.models.cards import PixelSpacing
from fedmerge.models.inputs import PerSite
from fedmerge.models.pool import ModelPool
from fedmerge.workflows.deployed import run_deployed
from fedmerge.workflows.run import run
from tests.experiment.deployed.nodes import make_nodes
from tests.experiment.test_mixed_cohort import IDENTIFYING, data, path  # noqa: F401

pytest.importorskip("pydicom", reason="pydicom is not installed: pip install 'fedmerge[dicom]'")
CONFIG: dict[str, Any] = {
    "name": "mixed",
    "model": {"name": "small-cnn", "options": {"width": 4}},
    "normalisation": "per-site",
    "seeds": [3],
    "threads": 1,
    "training": {
        "rounds": 1,
        "epochs": 1,
        "batch_size": 12,
        "augment": ["shift"],
        "fine_tune": {"epochs": 1},
    },
    "fusion": ["mean", "greedy"],
    "testtime": ["entropy-adaptive"],
    "evaluation": {"streams": ["iid"], "batch_size": 12, "split": "test"},
}


def taken_apart(file: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The server's cohort, and a file for each hospital that trains, beside its own files."""
    cohort = yaml.safe_load(file.read_text())
    nodes = []
    for i, site in enumerate(cohort["sites"]):
        if not site.get("unseen"):
            own = file.parent / f"{site['name']}.yaml"
            own.write_text(yaml.safe_dump(cohort | {"sites": [site]}))
            nodes.append({"site": site["name"], "cohort": str(own)})
            cohort["sites"][i] = {"name": site["name"], "source": "remote"}
    return cohort, nodes


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_they_train_fuse_and_adapt_on_their_own_machines(server, programs, path, hashes, tmp_path):  # noqa: F811
    spec, nodes = taken_apart(path)
    (path.parent / "server.yaml").write_text(yaml.safe_dump(spec))
    folders = make_nodes(server, nodes, tmp_path)
    for folder in folders:
        server.admit(folder.settings.site, folder.public_key)
        start_node(programs, folder)
    rules = {"approval": "any", "suppress_below": 1, "numbers": list(NUMBERS)}
    (folders[0].path / "policy.yaml").write_text(yaml.safe_dump(rules))
    config = tmp_path / "mixed.yaml"
    config.write_text(yaml.safe_dump(CONFIG | {"cohort": str(path.parent / "server.yaml")}))
    deployed = run_deployed(server.path, config, out=tmp_path / "deployed", patience=1000)
    failed = deployed.failures[deployed.failures["where"] != "pooled"]  # images stay at the hospitals
    assert failed.empty, "; ".join(failed["reason"])
    local = run(CONFIG | {"cohort": str(path)}, out=tmp_path / "local")
    expected = {k: v for k, v in hashes(local.folder).items() if not k.endswith("pooled.safetensors")}
    assert hashes(deployed.folder) == expected
    tried = {"mean", "greedy", "entropy-adaptive"}
    frames = [
        run.table[run.table["method"].isin(tried)].set_index("method")["accuracy"]
        for run in (deployed, local)
    ]
    assert frames[0].to_dict() == frames[1].to_dict()
    assert set(frames[0].index) == tried
    pool = ModelPool(next(deployed.folder.glob("seed-3/*/pool")), create=False)
    assert pool.card("guangzhou").pixel_spacing == PixelSpacing(rows=0.7, columns=0.7, varies=False)
    own = PerSite("site").at(build_cohort(read_cohort(path), 3)["guangzhou"])
    told = [str(own.mean[0])[:8].encode(), *IDENTIFYING]
    for file in (each for each in deployed.folder.rglob("*") if each.is_file()):
        assert not [word for word in told if word in file.read_bytes()], file
