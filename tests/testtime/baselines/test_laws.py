"""What holds for every method of the field, whatever it does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fedmerge.seeding import generator
from fedmerge.testtime import TESTTIME, Node, baselines
from tests.facts import refused

NAMES = [method.name for method in TESTTIME if getattr(baselines, method.call.__name__, None) is method.call]
FORWARD = {  # of three models, a batch
    "entropy-weighted": 3,
    "dawin": 4,
    "js-coefficients": 5,
    "memo": 9,
    "stream-norms": 2,
    "contrast": 3,
}
BACKWARD = {"adamerging": 1, "tent": 1, "shot": 1, "memo": 8, "contrast": 1}
each = pytest.mark.parametrize("name", NAMES)


class Counting(nn.Module):
    """Passes images on to ``net`` and counts them, forward and backward (where features have a gradient)."""

    forward_images = backward_images = 0

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        Counting.forward_images += len(x)
        features = self.net.norm(self.net.conv(x)).relu().mean(dim=(2, 3))
        if features.requires_grad:
            features.register_hook(lambda _: self._back(len(x)))
        return self.net.fc(features)

    def _back(self, images: int) -> None:
        Counting.backward_images += images


def make(name: str, models: list[nn.Module], **options: object) -> Node:
    return TESTTIME[name].call(models, **options)


def test_the_whole_field_is_registered() -> None:
    assert len(NAMES) == 15
    for name in NAMES:
        method = TESTTIME[name]
        assert all((method.title, method.paper, method.summary))
        assert method.needs.unlabelled_batches


@each
def test_a_node_that_predicts_every_image(name: str, models: list[nn.Module], batch: Tensor) -> None:
    node = make(name, models)
    assert isinstance(node, Node)
    logits, _ = node.observe(batch)
    assert logits.shape == (8, 4)
    assert logits.isfinite().all()
    assert not logits.requires_grad


@each
def test_reset_restores_every_bit(name: str, models: list[nn.Module], batch: Tensor) -> None:
    """With one step a batch two batches must differ from a fresh start where a method learns."""
    node = make(name, models)
    later = torch.randn(5, 3, 7, 7, generator=generator(1, "test"))
    state = copy.deepcopy(node.state_dict())
    first = [node.observe(x)[0] for x in (batch, later)]
    node.reset()
    assert (node.forward_passes, node.backward_passes) == (0, 0)
    again = [node.observe(x)[0] for x in (batch, later)]
    other = [make(name, models).observe(x)[0] for x in (batch,)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(first[0], other[0])
    node.reset()
    if name not in ("dawin", "js-coefficients"):  # which write a merged model anew for each batch
        assert all(torch.equal(value, state[key]) for key, value in node.state_dict().items())


@each
def test_sources_are_never_changed_and_no_global_draw_is_made(
    name: str, models: list[nn.Module], batch: Tensor
) -> None:
    models[0].train()
    states = [copy.deepcopy(model.state_dict()) for model in models]
    random = torch.get_rng_state()
    image = batch.clone()
    node = make(name, models)
    node.observe(batch)
    node.observe(batch)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(batch, image)
    assert models[0].training
    for model, state in zip(models, states, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())


@each
def test_it_stays_in_evaluation_mode(name: str, models: list[nn.Module], batch: Tensor) -> None:
    """Dropout, were it on, would change the logits."""
    assert torch.equal(
        make(name, models).train().observe(batch)[0],
        make(name, models).observe(batch)[0],
    )


@each
def test_passes_are_counted_as_they_are(name: str, models: list[nn.Module], batch: Tensor) -> None:
    """On the second batch (the first also finds the head) images seen, divided by those in the batch."""
    node = make(name, [Counting(model) for model in models])
    node.observe(batch)
    before = Counting.forward_images, Counting.backward_images
    counted = node.forward_passes, node.backward_passes
    node.observe(batch)
    assert (node.forward_passes - counted[0]) * 8 == Counting.forward_images - before[0]
    assert (node.backward_passes - counted[1]) * 8 == Counting.backward_images - before[1]
    assert counted == (FORWARD.get(name, 1), BACKWARD.get(name, 0))


@each
def test_a_batch_of_one(name: str, models: list[nn.Module], batch: Tensor) -> None:
    logits, _ = make(name, models).observe(batch[:1])
    assert logits.shape == (1, 4)
    assert logits.isfinite().all()


@each
def test_identical_images_get_identical_answers(name: str, models: list[nn.Module], batch: Tensor) -> None:
    if name == "memo":  # which draws views image by image
        return
    logits, _ = make(name, models).observe(batch[:1].expand(6, -1, -1, -1))
    torch.testing.assert_close(logits, logits[:1].expand(6, -1))


@each
def test_unfit_batches_are_sentences_and_do_no_harm(
    name: str, models: list[nn.Module], batch: Tensor
) -> None:
    node = make(name, models)
    for unfit, words in (
        (batch[:0], ("N", 1, "least")),
        (batch[0], ("N", "C", "H", "W")),
        ((batch * 255).to(torch.uint8), ("floating-point", "images", "normalised")),
        (batch[:, :1], ("take", "N", "C")),
        (batch * torch.nan, ("finite", "normalisation")),
    ):
        with refused(*words):
            node.observe(unfit)
    assert torch.equal(node.observe(batch)[0], make(name, models).observe(batch)[0])


@each
def test_unfit_models_are_sentences(name: str, models: list[nn.Module]) -> None:
    with refused("least", "test-time"):
        make(name, [])
    with refused("architecture", "fc.weight", "models[0]"):
        make(name, [models[0], type(models[0])(classes=9)])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("entropy-weighted", {}),
        ("entropy-weighted", {"form": "sample"}),
        ("dawin", {}),
        ("dawin", {"form": "batch"}),
        ("js-coefficients", {}),
        ("js-coefficients", {"form": "sample"}),
        ("js-coefficients", {"rule": "consensus"}),
        ("adamerging", {"predict": "after"}),
        ("adamerging", {"granularity": "task-wise", "predict": "after"}),
    ],
)
def test_identical_sources_keep_their_function(
    name: str, options: dict[str, str], models: list[nn.Module], batch: Tensor
) -> None:
    node = make(name, [models[0]] * 3, **options)
    node.observe(batch)
    probabilities = node.observe(batch)[0].softmax(dim=1)
    torch.testing.assert_close(probabilities, models[0](batch).softmax(dim=1), rtol=1e-4, atol=1e-6)


@each
def test_options_are_typed(name: str) -> None:
    with refused("labels", "test-time"):
        TESTTIME[name].check({"labels": [0, 1]})
