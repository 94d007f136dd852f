"""The two forms of a prediction, entropies and losses of every task, against numbers worked out by hand."""

import math

import pytest
import torch
from torch.nn import functional

from fedmerge.tasks import BINARY, MULTICLASS, MULTILABEL, ORDINAL, TASKS
from fedmerge.testtime.entropy import sample_entropies

LOG3 = math.log(3)
H_QUARTER = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))


def test_a_bernoulli_entropy_by_hand():
    """sigmoid(log 3) = 3/4: two findings of entropies H(1/4) and log 2, over 2 log 2."""
    entropy = MULTILABEL.entropy(torch.tensor([LOG3, 0.0]))
    assert entropy.item() == pytest.approx((H_QUARTER + math.log(2)) / (2 * math.log(2)), rel=1e-6)
    assert BINARY.entropy(torch.tensor([-LOG3])).item() == pytest.approx(H_QUARTER / math.log(2), rel=1e-6)


def test_grades_by_hand():
    """sigmoids 3/4 and 1/2: P = 1/4, 3/4 * 1/2, 3/4 * 1/2; the median is grade 1, as P(y > 0) = 3/4."""
    z = torch.tensor([[LOG3, 0.0]])
    torch.testing.assert_close(ORDINAL.p(z), torch.tensor([[0.25, 0.375, 0.375]]))
    assert ORDINAL.predicted(z).tolist() == [1]
    assert ORDINAL.width(3) == 2
    loss = ORDINAL.loss(z, torch.tensor([2]))
    assert loss.item() == pytest.approx(-math.log(0.375), rel=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_every_distribution_has_logits_and_they_mean_it(name):
    task, generator = TASKS[name], torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, task.width(5), generator=generator, dtype=torch.float64)
    log_p = task.log_p(logits)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones_like(log_p[..., 0]))
    torch.testing.assert_close(task.log_p(task.logits(log_p)), log_p)
    mean = log_p.exp().mean(0)  # the ensemble of two
    torch.testing.assert_close(task.p(task.logits(mean.log())), mean)
    entropy = task.entropy(logits)
    assert entropy.shape == (2, 7)
    assert bool(((entropy > 0) & (entropy < 1)).all())
    torch.testing.assert_close(task.entropy_of(task.p(logits)), entropy)
    torch.testing.assert_close(task.cross_entropy(task.p(logits), log_p), entropy)


@pytest.mark.parametrize("name", TASKS)
def test_the_uniform_distribution_has_entropy_one_and_a_sure_one_none(name):
    task = TASKS[name]
    uniform = torch.zeros(1, task.width(4))
    if name == "ordinal":  # P(y > j | y >= j) = (K - 1 - j) / (K - j): odds 3, 2 and 1
        uniform = torch.tensor([[3.0, 2.0, 1.0]]).log()
    assert task.entropy(uniform).item() == pytest.approx(1, abs=1e-6)
    assert task.entropy(torch.full((1, task.width(4)), -300.0).index_fill(1, torch.tensor([0]), 300.0)) == 0


def test_a_mean_of_sigmoids_is_the_ensemble():
    """(3/4 + 1/2) / 2 = 5/8, whose log-odds are log(5/3)."""
    log_p = MULTILABEL.log_p(torch.tensor([[[LOG3]], [[0.0]]]))
    mean = log_p.logsumexp(0) - math.log(2)
    assert MULTILABEL.logits(mean).item() == pytest.approx(math.log(5 / 3), rel=1e-6)


def test_binary_cross_entropy_with_positive_weights():
    """w = absent / present: 3/1 and 1/3; the loss is -w y log p - (1 - y) log(1 - p)."""
    labels = torch.tensor([[1, 1], [0, 1], [0, 1], [0, 0]], dtype=torch.uint8)
    weights = MULTILABEL.balanced_weights(labels, 2)
    torch.testing.assert_close(weights, torch.tensor([3.0, 1 / 3]))
    loss = MULTILABEL.loss(torch.tensor([[LOG3, 0.0]]), torch.tensor([[1, 0]]), 0.0, weights)
    assert loss.item() == pytest.approx((3 * -math.log(0.75) + math.log(2)) / 2, rel=1e-6)
    nothing = torch.zeros(4, 2, dtype=torch.uint8)
    assert MULTILABEL.balanced_weights(nothing, 2).tolist() == [1, 1]


def test_balanced_class_weights():
    """n / (classes that occur * n_c): 6 / (2 * 4) and 6 / (2 * 2); a class that does not occur has 1."""
    labels = torch.tensor([0, 0, 0, 0, 2, 2])
    assert MULTICLASS.balanced_weights(labels, 3).tolist() == [0.75, 1.0, 1.5]


def test_smoothed_labels_of_findings():
    """y (1 - s) + s / 2: at s = 0.2 a present finding is 0.9, an absent one 0.1."""
    z = torch.tensor([[LOG3, LOG3]])
    loss = MULTILABEL.loss(z, torch.tensor([[1, 0]]), 0.2)
    present = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    absent = -(0.1 * math.log(0.75) + 0.9 * math.log(0.25))
    assert loss.item() == pytest.approx((present + absent) / 2, rel=1e-6)


def test_multiclass_has_the_bits_it_had():
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(50, 7, generator=generator), torch.arange(50) % 7
    assert torch.equal(MULTICLASS.loss(logits, labels), functional.cross_entropy(logits, labels))
    log_p = torch.log_softmax(logits, dim=-1)
    before = -(log_p.exp() * log_p).sum(dim=-1) / math.log(7)
    assert torch.equal(sample_entropies(logits), before)
    assert torch.equal(MULTICLASS.p(logits), torch.softmax(logits, dim=-1))
    assert torch.equal(
        MULTICLASS.entropy_of(log_p.exp()), torch.special.entr(log_p.exp()).sum(dim=-1) / math.log(7)
    )


def test_the_likelihood_of_a_grade_is_that_of_its_questions():
    """Grade 1 of 3 says yes to "higher than 0?", no to "higher than 1?"; grade 0 no to the first."""
    z, labels = torch.tensor([[LOG3, -1.0], [0.3, 2.0]]), torch.tensor([1, 0])
    choices, answers = ORDINAL.decisions(z, labels)
    assert answers.tolist() == [1, 0, 0]
    total = functional.cross_entropy(choices, answers, reduction="sum")
    assert total.item() == pytest.approx(2 * ORDINAL.loss(z, labels).item(), rel=1e-6)


def test_half_precision_is_widened():
    assert ORDINAL.loss(torch.tensor([[8.0, -8.0]], dtype=torch.bfloat16), torch.tensor([0])).isfinite()
    assert MULTILABEL.entropy(torch.tensor([12.0], dtype=torch.float16)).dtype == torch.float32
