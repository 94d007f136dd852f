import pytest
import torch

from fedmerge.errors import FedMergeError
from fedmerge.merging import FUSION, merge
from fedmerge.models import ModelPool, ModelSpec, Normalisation, build

SPEC = ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4})


@pytest.fixture
def pool(tmp_path):
    pool = ModelPool(tmp_path / "pool")
    for seed, name in enumerate("abc"):
        pool.add(
            name,
            build(SPEC, seed).state_dict(),
            model=SPEC,
            normalisation=Normalisation.named("half"),
            class_names=("x", "y", "z"),
            method="initialisation",
        )
    return pool


@pytest.mark.parametrize("method", FUSION.names())
def test_every_method_gives_the_same_from_disk_as_from_memory(pool, method):
    x = torch.rand(6, 1, 8, 8)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    disk = merge(pool, method, data=x, labels=y)
    memory = merge([pool.model(name) for name in pool], method, data=x, labels=y, names=pool.names)
    assert disk.coefficients == memory.coefficients
    assert disk.model(x).equal(memory.model(x))


@pytest.mark.parametrize("method", FUSION.names())
def test_every_method_leaves_a_model_merged_with_itself_as_it_is(pool, method):
    net = pool.model("a")
    x, y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    torch.testing.assert_close(merge([net, net], method, data=x, labels=y).model(x), net(x))


def test_faults_are_sentences(pool, nets):
    other = build(SPEC.model_copy(update={"options": {"width": 8}}), 0)
    with pytest.raises(FedMergeError, match=r"unknown fusion method 'maen'. Did you mean 'mean'"):
        merge(nets, "maen")
    with pytest.raises(FedMergeError, match=r"no option 'weigths'. Did you mean 'weights'"):
        merge(nets, "mean", weigths=[1, 2, 3])
    with pytest.raises(FedMergeError, match="no model to merge"):
        merge([], "mean")
    with pytest.raises(FedMergeError, match="not of one architecture"):
        merge([pool.model("a"), other], "mean")
    with pytest.raises(FedMergeError, match="8 images but labels has 2"):
        merge(nets, "greedy", data=torch.rand(8, 1, 1, 2), labels=torch.tensor([0, 1]))
