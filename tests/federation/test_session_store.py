"""A hospital whose every message meets another process must give the same sums, from what it laid aside."""

import stat

import pytest
import torch
from safetensors.torch import load_file

from fedmerge.federation import Hospital, LocalGrid, Server, client_app
from fedmerge.federation.hospital.sums.session_store import SessionStore
from fedmerge.merging import merge
from fedmerge.models import build, state_hash

IMAGES = {"alpha": 18, "beta": 20, "gamma": 17}


@pytest.fixture
def states(plan):
    """A trained-looking model a hospital: its batch norms have seen something."""
    found = {}
    for seed, name in enumerate(IMAGES):
        model, noise = build(plan.model, seed), torch.Generator().manual_seed(seed)
        for _ in range(2):
            model.train()(torch.randn(8, 1, 8, 8, generator=noise) * 2 + seed)
        found[name] = {key: value.detach().clone() for key, value in model.state_dict().items()}
    return found


def fuse(plan, cohort, states, method, options, folder=None):
    """The fused weights' hash, and how many exchanges; with a folder every message meets a new hospital."""
    kept = [Hospital(site) for site in cohort.training]

    def of(context):
        number = int(context.node_config["partition-id"])
        site = cohort.training[number]
        return (
            kept[number] if folder is None else Hospital(site, session_store=SessionStore(folder / site.name))
        )

    server = Server(LocalGrid(client_app(of), len(kept)), plan)
    models = [build(plan.model, 0) for _ in states]
    for model, state in zip(models, states.values(), strict=True):
        model.load_state_dict(state)
    statistics = server.statistics(states, IMAGES, "train")
    result = merge(models, method, names=list(states), statistics=statistics, **options)
    assert server.strategy.failures == []
    return state_hash(result.model.state_dict()), [row["exchanges"] for row in statistics.traffic]


@pytest.mark.parametrize(
    ("method", "options"),
    [("hf", {"after": "repair"}), ("kf", {}), ("mean", {"after": "batch-norm"}), ("regmean", {})],
)
def test_fusion_over_processes_that_forget_is_fusion_over_one_that_does_not(
    plan, cohort, states, tmp_path, method, options
):
    """Bit for bit, and without a message more."""
    given = options | {"data": torch.zeros(2, 1, 8, 8)}
    whole = fuse(plan, cohort, states, method, given)
    assert fuse(plan, cohort, states, method, given, tmp_path) == whole


def test_the_shelf_holds_one_session_that_others_cannot_read(tmp_path):
    session_store = SessionStore(tmp_path / "shelf")
    one, two = "a" * 64, "b" * 64
    session_store.keep(one, {"parents": ["x"]}, {"0/w": torch.ones(2)})
    session_store.remember(one, "layer", {"w": torch.zeros(2)})
    assert session_store.fused(one) == {}  # no walk has begun
    session_store.remember(one, "walk", {"w": torch.zeros(2), "v": torch.zeros(1)})
    session_store.remember(one, "layer", {"w": torch.ones(2), ".mix": torch.ones(1)})
    assert {key: value.tolist() for key, value in session_store.fused(one).items()} == {"w": [1, 1], "v": [0]}
    job, parents = session_store.find(one)
    assert (job, parents["0/w"].tolist()) == ({"parents": ["x"]}, [1, 1])
    assert stat.S_IMODE(session_store.folder.stat().st_mode) == 0o700
    session_store.keep(two, {"parents": []}, {})
    assert (session_store.find(one), session_store.fused(one)) == (None, {})
    assert session_store.find(two) is not None


def test_a_session_that_was_not_laid_aside_whole_is_none(tmp_path):
    """As when the machine stops between the weights and the job."""
    session_store = SessionStore(tmp_path / "shelf")
    session_store.keep("a" * 64, {}, {"0/w": torch.ones(2)})
    (file,) = session_store.folder.rglob("job.json")
    file.unlink()
    assert session_store.find("a" * 64) is None
    assert load_file(next(session_store.folder.rglob("parents.safetensors")))["0/w"].tolist() == [1, 1]


def test_models_that_share_memory_are_kept_apart(tmp_path):
    """Flower hands tensors of equal content over as one array, such as the counters of batch norms."""
    counter = torch.tensor(7)
    parents = {"0/norm.num_batches_tracked": counter, "1/norm.num_batches_tracked": counter}
    store = SessionStore(tmp_path / "sessions")
    store.keep("abc", {"models": 2}, parents)
    found = store.find("abc")
    assert found is not None
    assert found[1] == parents
