from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from fedmerge.seeding import generator
from fedmerge.testtime.stream_norms import LEAST_VARIANCE, Stream, StreamNorm, use_stream_norms
from tests.facts import refused

X = 2 * torch.randn(6, 3, 5, 5, generator=generator(0, "test")) + 1
HALF = torch.full((6, 2), 0.5)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def _shape(value: Tensor) -> Tensor:
    return value.view(1, -1, 1, 1)


def _standard(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return (x - _shape(norm.running_mean)) / _shape((norm.running_var + norm.eps).sqrt())


def _as_documented(z: Tensor, q: Tensor, prior: float) -> Tensor:
    """The formulas of the module, image by image and class by class, for the only batch of a stream."""
    counts = [float(q[:, c].sum()) for c in range(q.shape[1])]
    known = [n / (n + prior) for n in counts]
    classes = sum(known) ** 2 / sum(r * r for r in known)
    balance = ((classes - 1) / (len(counts) - 1)) ** 2
    belief = balance * sum(counts) / (sum(counts) + prior)
    mean, second = torch.zeros(3), torch.full((3,), 1 - belief)
    for c, (n, r) in enumerate(zip(counts, known, strict=True)):
        for image, share in zip(z, q[:, c].tolist(), strict=True):
            mean += belief * r / sum(known) * share / n * image.mean(dim=(1, 2))
            second += belief * r / sum(known) * share / n * image.square().mean(dim=(1, 2))
    return (z - _shape(mean)) / _shape((second - mean.square()).sqrt())


def test_nothing_seen_is_the_running_statistics(drawn_norm) -> None:
    norm = drawn_norm()
    torch.testing.assert_close(StreamNorm(norm, Stream(4.0))(X), norm(X))


def test_one_batch_by_hand(drawn_norm) -> None:
    norm, stream = drawn_norm(), Stream(4.0)
    adapted = StreamNorm(norm, stream)
    q = torch.softmax(torch.randn(6, 2, generator=generator(1, "test")), dim=-1)
    with stream.learning(q):
        found = adapted(X)
    expected = _as_documented(_standard(norm, X), q, 4.0) * _shape(norm.weight) + _shape(norm.bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(adapted(X), found, rtol=1e-6, atol=1e-6)


def test_two_batches_are_one_larger_batch(drawn_norm) -> None:
    one, two = Stream(4.0), Stream(4.0)
    whole, parts = StreamNorm(drawn_norm(), one), StreamNorm(drawn_norm(), two)
    q = torch.softmax(torch.randn(6, 2, generator=generator(1, "test")), dim=-1)
    with one.learning(q):
        expected = whole(X)
    for x, share in ((X[:2], q[:2]), (X[2:], q[2:])):
        with two.learning(share):
            parts(x)
    torch.testing.assert_close(parts(X), expected, rtol=1e-4, atol=1e-4)


def test_little_prior_and_all_classes_alike_are_the_batchs_own_statistics(drawn_norm) -> None:
    norm, stream = drawn_norm(), Stream(1e-6)
    with stream.learning(HALF):
        found = StreamNorm(norm, stream)(X)
    torch.testing.assert_close(found, norm.train()(X), rtol=1e-3, atol=1e-3)


def test_an_infinite_prior_never_moves(drawn_norm) -> None:
    norm, stream = drawn_norm(), Stream(float("inf"))
    adapted = StreamNorm(norm, stream)
    with stream.learning(HALF):
        torch.testing.assert_close(adapted(X), norm(X))


def test_a_stream_of_one_class_is_not_believed(drawn_norm) -> None:
    norm, stream = drawn_norm(), Stream(1e-6)
    adapted = StreamNorm(norm, stream)
    with stream.learning(torch.tensor([[1.0, 0.0]]).expand(6, 2)):
        torch.testing.assert_close(adapted(X), norm(X), rtol=1e-4, atol=1e-4)


def test_a_constant_channel_is_not_blown_up(drawn_norm) -> None:
    norm, stream = drawn_norm(), Stream(1e-6)
    with stream.learning(HALF):
        found = StreamNorm(norm, stream)(torch.ones(6, 3, 5, 5))
    assert found.isfinite().all()
    assert float((found - _shape(norm.bias)).abs().max()) < 1 / LEAST_VARIANCE


def test_only_chosen_images_are_learned_from(drawn_norm) -> None:
    one, two = Stream(4.0), Stream(4.0)
    some, others = StreamNorm(drawn_norm(), one), StreamNorm(drawn_norm(), two)
    with one.learning(HALF[:2], torch.tensor([1, 4])):
        some(X)
    with two.learning(HALF[:2]):
        others(X[[1, 4]])
    assert torch.equal(some(X), others(X))


def test_reset_forgets_and_features_have_no_pixels() -> None:
    stream = Stream(4.0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False))
    before = model.state_dict()
    use_stream_norms(model, stream)
    assert [type(module).__name__ for module in model] == ["Linear", "StreamNorm", "BatchNorm1d"]
    assert all(value.data_ptr() == before[key].data_ptr() for key, value in model.state_dict().items())
    model = model[:2]
    first = model(X[:, :, 0, 0])
    with stream.learning(HALF):
        assert not torch.allclose(model(X[:, :, 0, 0]), first)
    stream.reset()
    assert torch.equal(model(X[:, :, 0, 0]), first)


@pytest.mark.parametrize("prior", [0.0, -1.0, float("nan")])
def test_unfit_priors_are_sentences(prior: float) -> None:
    with refused("prior", "images"):
        Stream(prior)
