"""What holds for every test-time method: where it runs, how it is copied, saved and loaded."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedmerge.models import ModelSpec, build
from fedmerge.seeding import generator
from fedmerge.testtime import TESTTIME, EntropyAdaptive, Node, StreamAdaptive
from fedmerge.testtime.guard import Guard
from fedmerge.testtime.options import Prediction
from fedmerge.testtime.probe import Probe
from tests.facts import refused
from tests.testtime.grouped import adaptive, grouped

CASES: list[tuple[str, dict[str, Any]]] = [
    *((method.name, {}) for method in TESTTIME),
    ("entropy-adaptive", grouped(memory=0.5, statistics="stream", guard=Guard(patience=2, coefficient=0.4))),
    ("entropy-adaptive", grouped(probe=Probe(every=4), granularity="layer", memory=0.5)),
    ("entropy-adaptive", grouped(probe=Probe(every=3, drift=0.05), head="class-wise", scale=0.5)),
    ("tent", {"learning_rate": 0.1, "steps": 2}),
    ("shot", {"learning_rate": 0.1}),
    ("adamerging", {"learning_rate": 0.3}),
    ("t3a", {"keep": 1}),
]
each = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value)[:60])
STREAM = [(1 + n) * torch.randn(8, 3, 7, 7, generator=generator(n, "test")) for n in range(6)]


def make(name: str, models: list[nn.Module], options: dict[str, Any] | None = None) -> Any:
    return TESTTIME[name].call(models, **(options or {}))


def said(node: Node, batches: list[Tensor]) -> list[Any]:
    """Logits and traces of the batches; a trace as text, because NaN is not NaN."""
    found = [node.observe(batch) for batch in batches]
    return [(logits, repr(trace)) for logits, trace in found]


def assert_same(one: list[Any], other: list[Any]) -> None:
    for (logits, trace), (others, its) in zip(one, other, strict=True):
        assert torch.equal(logits, others)
        assert trace == its


@each
def test_a_loaded_state_goes_on_with_the_same_bits(
    name: str, options: dict[str, Any], models: list[nn.Module]
) -> None:
    """After 3 of 6 batches, through a file of tensors alone, into a node that had met another stream."""
    node, other = make(name, models, options), make(name, models, options)
    said(node, STREAM[:3])
    other.observe(STREAM[5])
    file = io.BytesIO()
    torch.save(node.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    counts = (node.forward_passes, node.backward_passes, node.batches)
    assert (other.forward_passes, other.backward_passes, other.batches) == counts
    assert_same(said(node, STREAM[3:]), said(other, STREAM[3:]))
    fresh = make(name, models, options)
    other.reset()
    assert_same(said(other, STREAM[:2]), said(fresh, STREAM[:2]))


@each
def test_a_node_that_has_met_nothing_takes_up_a_state(
    name: str, options: dict[str, Any], models: list[nn.Module]
) -> None:
    node, other = make(name, models, options), make(name, models, options)
    said(node, STREAM[:3])
    other.load_state_dict(node.state_dict())
    assert_same(said(node, STREAM[3:]), said(other, STREAM[3:]))


@each
def test_a_state_of_other_models_is_refused_and_changes_nothing(
    name: str, options: dict[str, Any], models: list[nn.Module]
) -> None:
    others = copy.deepcopy(models)
    with torch.no_grad():
        others[1].fc.bias[0] += 1
    state = make(name, others, options).state_dict()
    node, untouched = make(name, models, options), make(name, models, options)
    for batch in STREAM[:2]:
        assert torch.equal(node.observe(batch)[0], untouched.observe(batch)[0])
    with refused("other", "had", "dtype"):
        node.load_state_dict(state)
    assert_same(said(node, STREAM[2:4]), said(untouched, STREAM[2:4]))


def test_states_of_other_kinds_are_sentences(models: list[nn.Module]) -> None:
    node = EntropyAdaptive(models)
    for other, words in (
        (EntropyAdaptive(models[:2]), ("other", "had", "dtype")),
        (EntropyAdaptive(models[::-1]), ("other", "had", "dtype")),
        (EntropyAdaptive([copy.deepcopy(model).half() for model in models]), ("other", "had", "dtype")),
        (make("tent", models), ("Tent", "EntropyAdaptive")),
        (models[0], ("say", "EntropyAdaptive")),
    ):
        with refused(*words):
            node.load_state_dict(other.state_dict())
    tent = make("tent", models)
    with refused("Shot", "Tent"):  # whose entries are the same
        tent.load_state_dict(make("shot", models).state_dict())
    with refused("True", "adapts"):
        tent.load_state_dict(tent.state_dict(), assign=True)
    for name in ("tent", "adamerging", "dawin"):
        with refused("other", "had", "dtype"):
            make(name, models).load_state_dict(make(name, models).half().state_dict())
    with refused("EntropyAdaptive", "options", "monitor.mean.conv.bias"):
        node.load_state_dict(EntropyAdaptive(models, guard=Guard()).state_dict())


@each
@pytest.mark.parametrize("how", [copy.deepcopy, lambda node: pickle.loads(pickle.dumps(node))])
def test_a_copy_goes_on_by_itself(
    name: str, options: dict[str, Any], models: list[nn.Module], how: Any
) -> None:
    node, alone = make(name, models, options), make(name, models, options)
    assert_same(said(node, STREAM[:3]), said(alone, STREAM[:3]))
    other = how(node)
    answers = said(other, STREAM[3:])
    assert_same(answers, said(node, STREAM[3:]))
    assert_same(answers, said(alone, STREAM[3:]))
    other.reset()
    assert_same(said(other, STREAM[:2]), said(make(name, models, options), STREAM[:2]))


@pytest.mark.parametrize("method", list(TESTTIME), ids=lambda method: method.name)
def test_a_pickle_holds_each_number_once_or_twice(method: Any) -> None:
    """The sources, and at most three merged models beside them; not all sources for each of their tensors."""
    spec = ModelSpec(name="small-cnn", in_channels=3, n_classes=4, image_size=8, options={"width": 32})
    models = [build(spec, seed).eval() for seed in range(6)]
    node = method.call(models)
    for batch in STREAM[:2]:
        node.observe(batch[..., :8, :8])
    one = sum(value.numel() * value.element_size() for value in models[0].state_dict().values())
    assert len(pickle.dumps(node)) < 12 * one


@each
@pytest.mark.parametrize("to", [torch.float16, torch.bfloat16, torch.float64])
def test_a_node_moved_to_another_dtype_within_a_stream(
    name: str, options: dict[str, Any], models: list[nn.Module], to: torch.dtype
) -> None:
    """It says what one that was not moved says, up to the precision of the networks; then resets."""
    node, unmoved = make(name, models, options), make(name, models, options)
    said(node, STREAM[:2]), said(unmoved, STREAM[:2])
    node.to(to)
    slack = {torch.float64: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.06}[to]
    for batch in STREAM[2:4]:
        found, expected = node.observe(batch.to(to))[0], unmoved.observe(batch)[0]
        torch.testing.assert_close(found.softmax(1).float(), expected.softmax(1), rtol=0, atol=slack)
    node.reset()
    unmoved.reset()
    found, expected = node.observe(STREAM[0].to(to))[0], unmoved.observe(STREAM[0])[0]
    torch.testing.assert_close(found.softmax(1).float(), expected.softmax(1), rtol=0, atol=slack)


@each
@pytest.mark.parametrize(
    "within", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_the_callers_modes_change_nothing(
    name: str, options: dict[str, Any], models: list[nn.Module], within: Any
) -> None:
    """Built, asked and reset inside them, and asked again outside: the same bits as never inside."""
    expected = said(make(name, models, options), STREAM)
    with within():
        node = make(name, models, options)
        answers = said(node, [batch.clone() for batch in STREAM[:3]])
    assert_same(answers + said(node, STREAM[3:]), expected)
    with within():
        node.reset()
    assert_same(said(node, STREAM[:2]), expected[:2])


def test_models_of_inference_mode_are_as_good(models: list[nn.Module]) -> None:
    with torch.inference_mode():
        inner = [copy.deepcopy(model) for model in models]
        for model in inner:
            for module in model.modules():
                for key, value in list(module._parameters.items()):
                    module._parameters[key] = nn.Parameter(value.clone(), requires_grad=False)
    for method in TESTTIME:
        node, usual = method.call(inner), method.call(models)
        assert_same(said(node, STREAM[:3]), said(usual, STREAM[:3]))


@each
def test_batches_that_are_none_are_sentences(
    name: str, options: dict[str, Any], models: list[nn.Module]
) -> None:
    node, batch = make(name, models, options), STREAM[0]
    for unfit, words in (
        (batch.numpy(), ("ndarray", "N")),
        (np.float32(1), ("tensor", "N", "C")),
        ([batch], ("list", "N")),
        (batch.double(), ("float64", "N", "C")),
        (batch.half(), ("float16", "N", "C")),
        (batch.to(torch.uint8), ("floating-point", "images")),
        (batch.to(torch.complex64), ("floating-point", "images")),
        (batch[:, :2], ("take", "N", "C")),
    ):
        with refused(*words):
            node.observe(unfit)
    assert node.batches == 0
    assert_same(said(node, STREAM[:2]), said(make(name, models, options), STREAM[:2]))


def test_answers_have_no_gradient_and_batches_get_none(models: list[nn.Module]) -> None:
    batch = STREAM[0].clone().requires_grad_(True)
    for method in TESTTIME:
        logits, _ = method.call(models).observe(batch)
        assert not logits.requires_grad
        assert not logits.is_inference()
        assert batch.grad is None


@pytest.mark.parametrize("kind", [EntropyAdaptive, StreamAdaptive])
def test_only_the_latest_traces_are_kept(kind: Any, models: list[nn.Module]) -> None:
    for history, kept in ((1, 1), (2, 2), (4, 4), (5, 5), (6, 6), (7, 6), (None, 6), (0, 0), (1000, 6)):
        node = kind(models, predict=Prediction(history=history))
        traces = [node.observe(batch)[1] for batch in STREAM]
        assert node.history == (traces[-kept:] if kept else [])
        assert node.trace == traces[-1]
        assert node.batches == 6
    with refused("-1", "history"):
        kind(models, predict=Prediction(history=-1))


def test_forgotten_traces_do_not_change_when_sources_are_asked(models: list[nn.Module]) -> None:
    """Every third batch, however few traces are kept."""
    for history in (0, 1, 2, None):
        node = adaptive(models, probe=Probe(every=3), history=history)
        asked = [node.observe(batch)[1].scored for batch in STREAM]
        assert asked == [True, False, False, True, False, False]


def test_a_thousand_traces_are_the_default(models: list[nn.Module]) -> None:
    node = EntropyAdaptive(models[:1])
    node.observe(STREAM[0])
    node.history *= 1000
    node.observe(STREAM[1])
    assert len(node.history) == 1000
    assert node.history[-1] is node.trace
