from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmerge.models.state import average
from fedmerge.testtime import EntropyAdaptive
from fedmerge.testtime.answers import Answers
from fedmerge.testtime.guard import Guard, StreamMonitor
from fedmerge.testtime.probe import Probe
from tests.facts import refused
from tests.testtime.grouped import adaptive

SPREAD = Answers(torch.zeros(2, 4, 3), torch.arange(2))
"""Two sources that do not know."""


def _sure(of: int, images: int = 4) -> Tensor:
    return 30 * nn.functional.one_hot(torch.full((images,), of), 3).float()


def _faults(
    monitor: StreamMonitor, alpha: tuple[float, ...], logits: Tensor, answers: Answers | None = SPREAD
) -> Any:
    return monitor.faults(torch.tensor(alpha), logits, answers, None)


def _mean(models: list[nn.Module], batch: Tensor) -> Tensor:
    model = type(models[0])().eval()
    model.load_state_dict(average([each.state_dict() for each in models]))
    return model(batch)


def test_one_source_alone_for_long_is_a_fault_until_it_is_not() -> None:
    monitor = StreamMonitor(Guard(coefficient=0.9, patience=3), nn.Identity())
    assert [_faults(monitor, (0.95, 0.05), torch.zeros(4, 3)) for _ in range(2)] == [(), ()]
    (fault,) = _faults(monitor, (0.05, 0.95), torch.zeros(4, 3))
    assert fault == "one source had more than 0.9 of the encoder for 3 batches"
    assert _faults(monitor, (0.5, 0.5), torch.zeros(4, 3)) == ()
    assert _faults(monitor, (1.0, 0.0), torch.zeros(4, 3)) == ()


def test_one_class_that_the_sources_do_not_see_is_a_fault() -> None:
    monitor = StreamMonitor(Guard(patience=2), nn.Identity())
    assert _faults(monitor, (0.5, 0.5), _sure(1)) == ()
    (fault,) = _faults(monitor, (0.5, 0.5), _sure(1))
    assert "has predicted class 1 for 2 batches, alone in that" in fault
    assert "class 1" in _faults(monitor, (0.5, 0.5), _sure(1), None)[0], "a collapse goes on between scorings"
    monitor.reset()
    assert _faults(monitor, (0.5, 0.5), _sure(1), None) == (), "but none begins there"


def test_a_stream_of_one_class_is_no_collapse() -> None:
    monitor = StreamMonitor(Guard(patience=1), nn.Identity())
    agreeing = Answers(_sure(1).expand(2, -1, -1), torch.arange(2))
    assert _faults(monitor, (0.5, 0.5), _sure(1), agreeing) == ()


def test_logits_that_are_not_finite_are_a_fault_at_once() -> None:
    monitor = StreamMonitor(Guard(), nn.Identity())
    (fault,) = _faults(monitor, (0.5, 0.5), torch.full((4, 3), math.nan))
    assert fault == "the merged model's logits were not finite"


@pytest.mark.parametrize("reference", ["mean", "ensemble"])
def test_the_reference_answers_and_the_trace_says_so(
    models: list[nn.Module], batch: Tensor, reference: str
) -> None:
    node = adaptive(models, temperature=1e-9, guard=Guard(reference=reference, coefficient=0.9, patience=2))
    plain = adaptive(models, temperature=1e-9)
    torch.testing.assert_close(node(batch), plain(batch))
    assert node.trace.fallback == ()
    logits, trace = node.observe(batch)
    assert "of the encoder for 2 batches" in trace.fallback[0]
    if reference == "mean":
        torch.testing.assert_close(logits, _mean(models, batch))
        assert node.forward_passes == 2 * 4 + 1
    else:
        expected = torch.stack([torch.softmax(model(batch), dim=-1) for model in models]).mean(dim=0)
        torch.testing.assert_close(logits.exp(), expected)
        assert node.forward_passes == 2 * 4, "the sources were asked anyway"
    node.reset()
    node(batch)
    assert node.trace.fallback == ()


def test_the_ensemble_is_asked_whole_where_only_a_probe_was(models: list[nn.Module], batch: Tensor) -> None:
    guard = Guard(reference="ensemble", coefficient=0.9, patience=1)
    node = adaptive(models, temperature=1e-9, guard=guard, probe=Probe(images=2))
    expected = torch.stack([torch.softmax(model(batch), dim=-1) for model in models]).mean(dim=0)
    torch.testing.assert_close(node(batch).exp(), expected)
    assert node.forward_passes == 3 * 2 / 8 + 1 + 3


def test_less_sure_than_mean_merging_by_a_margin() -> None:
    """Entropies 1 and 0: the merged model may be above mean merging by the margin and no more."""
    monitor = StreamMonitor(Guard(margin=0.5), nn.Identity())
    alpha, unsure = torch.tensor([0.5, 0.5]), torch.zeros(4, 3)
    (fault,) = monitor.faults(alpha, unsure, SPREAD, _sure(1))
    assert fault == "the merged model's entropy is 1 above mean merging's"
    assert monitor.faults(alpha, _sure(1), SPREAD, unsure) == ()
    assert StreamMonitor(Guard(margin=1), nn.Identity()).faults(alpha, unsure, SPREAD, _sure(1)) == ()


def test_a_margin_costs_one_pass(models: list[nn.Module], batch: Tensor) -> None:
    node = EntropyAdaptive(models, guard=Guard(margin=2.0))
    torch.testing.assert_close(node(batch), EntropyAdaptive(models)(batch))
    assert node.forward_passes == 5


def test_its_state_travels_with_the_node(models: list[nn.Module], batch: Tensor) -> None:
    node = EntropyAdaptive(models, guard=Guard())
    assert any(key.startswith("monitor.mean") for key in node.state_dict())
    other = EntropyAdaptive(models, guard=Guard())
    with torch.no_grad():
        other.monitor.mean.fc.bias.add_(1)
    other.load_state_dict(node.state_dict())
    torch.testing.assert_close(other.monitor.mean_logits(batch), _mean(models, batch))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"reference": "best"}, ("best", "ensemble")),
        ({"patience": 0}, (0, "patience")),
        ({"coefficient": 1.5}, ("1.5", "coefficient")),
        ({"one_class": 0}, ("one_class", 0)),
        ({"margin": -1}, ("-1", "margin")),
    ],
)
def test_unfit_guards_are_sentences(given: dict[str, Any], words: tuple[object, ...]) -> None:
    with refused(*words):
        Guard(**given)
