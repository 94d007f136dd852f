"""The same rounds, secure and in the open."""

import pytest

from fedmerge.federation import FederationOptions


@pytest.fixture
def secure(plan):
    """Two secure rounds of a network with batch norm."""
    return plan.model_copy(
        update={"fine_tune": None, "federation": FederationOptions(secure_aggregation=True)}
    )


@pytest.fixture
def plain(plan):
    """The same rounds in the open."""
    return plan.model_copy(update={"fine_tune": None})
