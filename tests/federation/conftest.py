from __future__ import annotations

import pytest

from fedmerge.federation import FederationPlan
from fedmerge.models import ModelSpec, Normalisation
from fedmerge.training import TrainingOptions


@pytest.fixture
def plan() -> FederationPlan:
    """Two rounds on the tiny cohort."""
    return FederationPlan(
        model=ModelSpec(name="small-cnn", in_channels=1, n_classes=3, image_size=8, options={"width": 4}),
        normalisation=Normalisation.named("half"),
        seed=0,
        rounds=2,
        local=TrainingOptions(lr=0.05, batch_size=12),
        fine_tune=TrainingOptions(lr=0.02, batch_size=12),
    )
