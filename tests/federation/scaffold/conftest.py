"""A plan without statistics in the model, and hospitals of different sizes."""

from dataclasses import replace

import pytest

from fedmerge.data import Cohort
from fedmerge.federation import FederationPlan
from fedmerge.training import TrainingOptions
from tests.federation.scaffold.serving import PLAIN


@pytest.fixture
def plan(plan: FederationPlan) -> FederationPlan:
    """Three rounds of three epochs with group norm, so that no statistics are in the model."""
    model = plan.model.model_copy(update={"options": {"width": 4, "norm": "group"}})
    local = TrainingOptions(lr=0.05, batch_size=12, epochs=3, **PLAIN)
    return plan.model_copy(update={"model": model, "rounds": 3, "local": local, "fine_tune": None})


@pytest.fixture
def uneven(cohort: Cohort) -> Cohort:
    """Hospitals with 36, 24 and 36 images: two of the others' three steps an epoch."""
    fewer = replace(cohort["beta"], train=cohort["beta"].train.select(range(24)))
    return replace(cohort, sites=tuple(fewer if s.name == "beta" else s for s in cohort.sites))
