"""Models of findings are diagnosed by their own loss and right answers, or left out by name."""

import math

import pytest
import torch
from torch import nn

from fedmerge.analysis.diagnosis import Subject, diagnose
from fedmerge.analysis.diagnosis.contract import score
from fedmerge.tasks import MULTILABEL, mark


def test_findings_are_scored_one_by_one():
    """Logits above 0 say yes: of 2 x 2 answers three are right; the loss is the mean of four Bernoulli's."""
    logits = torch.tensor([[math.log(3), -math.log(3)], [math.log(3), math.log(3)]])
    found = score(logits, torch.tensor([[1, 0], [1, 0]], dtype=torch.uint8), MULTILABEL)
    assert found.accuracy == 0.75
    assert found.loss == pytest.approx((3 * -math.log(0.75) - math.log(0.25)) / 4)


def test_analyses_of_single_classes_leave_findings_out_by_name():
    torch.manual_seed(0)
    models = {}
    for name in ("a", "b"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3))
        models[name] = mark(net, "multilabel")
    labels = (torch.rand(12, 3) > 0.7).to(torch.uint8)
    subject = Subject.of(models, torch.rand(12, 1, 4, 4), labels)
    absent, present = 1 - labels.double().mean(0), labels.double().mean(0)
    assert subject.commonest == pytest.approx(float(torch.maximum(absent, present).mean()))
    findings, left = diagnose(subject, ["drift", "heads", "barriers", "templates", "tasks"])
    assert set(findings) == {"drift", "heads", "barriers"}
    assert all("multilabel" in reason for reason in left.values())
