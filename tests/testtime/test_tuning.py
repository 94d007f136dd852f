"""Holding each source out in turn: what is deployed where, what is averaged, and what is chosen."""

import math

import pytest
import torch
from torch import nn

from fedmerge.errors import FedMergeError
from fedmerge.schema.yaml_text import read_yaml
from fedmerge.testtime.tuning import TEMPERATURES, LabelledSource, as_text, attempt, choose, trials, tune


class Named(nn.Module):
    """A model that is only a name."""

    def __init__(self, name):
        super().__init__()
        self.name = name


class Right:
    """A node that is right on the first ``share`` of each batch; images hold their labels (two classes)."""

    def __init__(self, share):
        self.share, self.forward_passes, self.backward_passes, self.resets = share, 0.0, 0.0, 0

    def observe(self, batch):
        labels = batch.flatten(1)[:, 0].long()
        labels[round(self.share * len(labels)) :] ^= 1
        return nn.functional.one_hot(labels, 2).float(), None

    def reset(self):
        self.resets += 1


def source(name, n=8, orders=None):
    labels = torch.arange(n) % 2
    return LabelledSource(name, Named(name), labels.float().reshape(n, 1, 1, 1), labels, orders or {})


def sources(*names):
    return [source(name) for name in names]


def test_each_source_is_met_by_the_models_of_the_others():
    seen = []

    def build(models, value):
        seen.append((value, [model.name for model in models]))
        return Right(1.0)

    tune(sources("a", "b", "c"), build, values=[1.0, 0.1])
    assert seen == [(value, pair) for value in (0.1, 1.0) for pair in (["b", "c"], ["a", "c"], ["a", "b"])]


def test_the_best_mean_over_held_out_sources_is_chosen():
    """Shares of 8 right: 1.0 gives (8, 2, 2)/8, mean 1/2; 0.5 gives 6/8 everywhere; 2 gives 4/8."""

    def build(models, value):
        held_out = ({"a", "b", "c"} - {model.name for model in models}).pop()
        return Right({0.5: 0.75, 2.0: 0.5}.get(value, 1.0 if held_out == "a" else 0.25))

    found = tune(sources("a", "b", "c"), build, values=[1.0, 0.5, 2.0])
    assert found.chosen == 0.5
    assert found.means == {0.5: 0.75, 1.0: 0.5, 2.0: 0.5}
    assert found.table[1.0] == {"a": 1.0, "b": 0.25, "c": 0.25}


@pytest.mark.parametrize(
    ("values", "chosen"),
    [
        ([math.inf, 0.1, 1], math.inf),
        ([1, 0.02], 1),
        (["mean", "median"], "median"),
        (TEMPERATURES, math.inf),
    ],
)
def test_of_equals_the_largest_number_or_the_last_word(values, chosen):
    assert tune(sources("a", "b", "c"), lambda models, value: Right(0.5), values=values).chosen == chosen


def test_streams_are_averaged_and_each_has_a_node_of_its_own():
    """A node that is right on a quarter of its first batch, and on all of any other: (1/4 + 1)/2 a stream.

    A node that had been through another stream would be right on all of both batches.
    """
    nodes = []

    class Learns(Right):
        def observe(self, batch):
            answer = super().observe(batch)
            self.share = 1.0
            return answer

    def build(models, value):
        nodes.append(Learns(0.25))
        return nodes[-1]

    orders = {"iid": torch.arange(8).flip(0), "temporal": torch.arange(8)}
    given = [source(name, orders=orders) for name in "abc"]
    found = tune(given, build, values=[1.0], batch_size=4)
    assert found.means == {1.0: (0.25 + 1.0) / 2}
    assert [node.resets for node in nodes] == [1] * 6


def test_trials_in_any_order_choose_as_tune_does():
    """Value by value, source by source, stream by stream; each gives the same, alone or after others."""
    orders = {"iid": torch.arange(8).flip(0), "temporal": torch.arange(8)}
    given = [source(name, orders=orders) for name in "abc"]

    def build(models, value):
        return Right(value if models[0].name == "a" else 0.5)

    wanted = trials(given, "share", [1.0, 0.25])
    assert [(t.value, t.held_out, t.stream) for t in wanted] == [
        (value, name, stream) for value in (0.25, 1.0) for name in "abc" for stream in ("iid", "temporal")
    ]
    alone = {trial: attempt(trial, given, build, 4) for trial in reversed(wanted)}
    in_order = {trial: alone[trial] for trial in wanted}
    assert choose("share", in_order) == tune(given, build, option="share", values=[1.0, 0.25], batch_size=4)


def test_images_arrive_in_the_order_of_the_stream():
    """A node that gives every image the class of the first: of 0 1 1 1 a quarter, from behind 3/4."""

    class Stubborn(Right):
        def reset(self):
            self.first = None

        def observe(self, batch):
            self.first = batch.flatten(1)[0, 0].long() if self.first is None else self.first
            return nn.functional.one_hot(self.first.expand(len(batch)), 2).float(), None

    labels = torch.tensor([0, 1, 1, 1])
    for order, share in ((torch.arange(4), 0.25), (torch.arange(4).flip(0), 0.75)):
        images = labels.float().reshape(4, 1, 1, 1)
        given = [LabelledSource(name, Named(name), images, labels, {"s": order}) for name in "abc"]
        assert tune(given, lambda m, v: Stubborn(0), values=[1.0], batch_size=2).means == {1.0: share}


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        (sources("a", "b"), {}, ["2 sources", "merging one model tunes nothing", "at least 3"]),
        (sources("a"), {}, ["1 source:"]),
        (sources("a", "b", "b"), {}, ["one name"]),
        (sources("a", "b", "c"), {"values": []}, ["no value of 'temperature'"]),
        (sources("a", "b", "c"), {"batch_size": 0}, ["batch size is 0"]),
        ([*sources("a", "b"), source("c", 0)], {}, ["'c' has no validation images"]),
        (
            [*sources("a", "b"), source("c", 8, {"iid": torch.arange(5)})],
            {},
            ["'c'", "8 validation images", "5 indices in the stream iid"],
        ),
    ],
)
def test_faults_are_sentences(given, options, words):
    with pytest.raises(FedMergeError) as caught:
        tune(given, lambda models, value: Right(1.0), **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_values_are_written_as_a_configuration_takes_them():
    assert [as_text(v) for v in (0.1, 1.0, math.inf, 3, "entropy")] == ["0.1", "1", ".inf", "3", "entropy"]
    for value in (0.1234567, 1e16, 1e-7, -math.inf, None, True, 3, "entropy"):
        assert read_yaml(as_text(value), "here") == value
