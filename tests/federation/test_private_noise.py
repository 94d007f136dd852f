"""The noise of private rounds: drawn anew each time, in no file, and alike in no two rounds."""

from itertools import pairwise

import pytest
import torch

from fedmerge.federation.arrays import borrow
from fedmerge.federation.hospital import private_training as local
from fedmerge.federation.privacy import noise
from fedmerge.federation.privacy import round as private_round
from fedmerge.federation.server.journal import RoundJournal
from fedmerge.models import state_hash
from fedmerge.training import TrainingOptions
from tests.federation.private_wire import ADAPTIVE, CENTRAL, LOCAL, ROUNDS, Wire, private, serve


def test_two_runs_of_one_seed_have_different_noise_and_one_that_is_simulated_has_not(plan, cohort):
    changed = private(plan, CENTRAL)
    one, other = (serve(changed, Wire(cohort.training))[0] for _ in range(2))
    assert all((one[key] != other[key]).any() for key in one if one[key].is_floating_point())
    simulated = private(plan, CENTRAL | {"simulate": True})
    (same, history, _), (again, _, _) = (serve(simulated, Wire(cohort.training)) for _ in range(2))
    assert state_hash(same) == state_hash(again)
    assert not any("epsilon" in row or "releases" in row for row in history)


@pytest.mark.parametrize("privacy", [CENTRAL, ADAPTIVE, LOCAL], ids=["central", "adaptive", "local"])
def test_noise_is_in_no_file(plan, cohort, tmp_path, monkeypatch, privacy):
    """The bytes of every draw, scaled as they are used and as they are drawn, in three types."""
    drawn = []
    real = noise.from_the_system

    def watched(count):
        drawn.append(real(count))
        return drawn[-1].clone()

    for module in (private_round, noise):
        monkeypatch.setattr(module, "from_the_system", watched)
    monkeypatch.setattr(local.local_update, "__defaults__", (watched,))
    wire = Wire(cohort.training, folder=tmp_path / "nodes")
    serve(private(plan, privacy), wire, RoundJournal(tmp_path / "journal"))
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(drawn) >= ROUNDS * 4
    assert any(path.suffix == ".safetensors" for path in files)
    for values in drawn:
        part = values[:2]
        for scale in (1.0, 0.5, 0.5 / 3, 2.0**24, 1 / 3):
            for kind in (torch.float64, torch.float32):
                needle = (part * scale).to(kind).numpy().tobytes()
                assert not any(needle in data for data in files.values())
        for step in (2.0**-25, 2.0**-26):
            needle = (part * 0.5 / step).round().to(torch.int64).numpy().tobytes()
            assert not any(needle in data for data in files.values())


def test_rounds_have_independent_noise(plan, cohort):
    """Hospitals that change nothing leave the noise alone: its steps in three rounds, compared in pairs."""
    still = TrainingOptions(lr=1e-12, batch_size=12)
    changed = private(plan, CENTRAL | {"noise": 10.0}).model_copy(update={"local": still})
    models = []
    wire = Wire(cohort.training)
    wire.dies = lambda message: (
        models.append(_flat(borrow(message.content["arrays"])))
        if message.metadata.message_type == "train"
        else None
    )
    state = serve(changed, wire)[0]
    models = [*models[:: len(cohort.training)], _flat(state)]
    steps = [after - before for before, after in pairwise(models)]
    assert len(steps) == ROUNDS
    n = len(steps[0])
    for i in range(ROUNDS):
        assert float(steps[i].std()) == pytest.approx(10 * 0.5 / 3, rel=7 / (2 * n) ** 0.5)
        for j in range(i):
            assert abs(float(torch.corrcoef(torch.stack([steps[i], steps[j]]))[0, 1])) < 7 / n**0.5


def _flat(state):
    return torch.cat([state[key].double().reshape(-1) for key in sorted(state) if state[key].dim()])
