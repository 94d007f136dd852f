"""A federation of three hospitals whose messages a test can look at and touch."""

from dataclasses import dataclass

import torch

from fedmerge.data import concat
from fedmerge.federation import LocalGrid, Server
from fedmerge.federation.hospital.sums.answer import program_of
from fedmerge.federation.simulated import FIRST_CLIENT_NODE
from fedmerge.merging.neurons.statistics import LocalStatistics

IMAGES = {"alpha": 18, "beta": 20, "gamma": 17}
NAMES = list(IMAGES)
BETA = FIRST_CLIENT_NODE + 1


class Watched(LocalGrid):
    """A grid that keeps the shapes of what hospitals send, and lets a test touch messages and replies."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shapes = []
        self.before = lambda message: None
        self.after = lambda reply: None

    def _deliver(self, message):
        self.before(message)
        key = super()._deliver(message)
        reply = self._replies[key]
        self.after(reply)
        if not reply.has_error():
            for record in reply.content.array_records.values():
                self.shapes += [(name, tuple(array.shape)) for name, array in record.items()]
        return key


@dataclass
class Ward:
    """A federation of three hospitals, three models (one a hospital) and the shares they draw."""

    server: Server
    grid: Watched
    hospitals: list
    states: dict
    shares: dict

    def statistics(self, **changes):
        return self.server.statistics(
            changes.pop("parents", self.states), changes.pop("images", IMAGES), "train"
        )

    def local(self, sites=NAMES, own=None):
        """Statistics over the pooled shares of some sites, here."""
        program = program_of(self.server.plan.model)
        pooled = concat([self.shares[name] for name in sites])
        images = self.server.plan.normalisation(pooled.images)
        parents = [(program, state) for state in self.states.values()]
        return LocalStatistics(program, parents, images, pooled.labels, own=own)


def assert_same(found, expected, tolerance=1e-10):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == torch.float64
        assert found[key].shape == value.shape
        scale = float(value.abs().max()) or 1.0
        assert float((found[key] - value).abs().max()) <= tolerance * scale, key


def layers(ward):
    return [layer.name for layer in program_of(ward.server.plan.model).layers]
