"""Federations with SCAFFOLD, and what is compared after their rounds."""

import torch

from fedmerge.federation import FederationOptions, server_app, simulate

PLAIN = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.01, "schedule": "constant"}


def having(plan, local=(), **options):
    options = FederationOptions(**options)
    return plan.model_copy(update={"federation": options, "local": plan.local.model_copy(update=dict(local))})


def served(plan, sites):
    """The model after the rounds, c, every c_i, the failures."""
    kept = []

    def programme(server):
        state = server.rounds(server.start())
        control, strategy = server.strategy.control, server.strategy
        own = {
            name: {key.removeprefix("now/"): v for key, v in memory.items() if key.startswith("now/")}
            for name, memory in server.memories().items()
        }
        kept.append((state, control and control.sent(state), own, strategy.failures))

    simulate(server_app(plan, programme), sites)
    return kept[0]


def close(one, other, tolerance=1e-5):
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=tolerance, atol=tolerance)


def assert_c_is_the_mean(control, own, sites):
    """c = sum_i (n_i / n) c_i; a hospital that never took part has c_i = 0."""
    images = sum(len(site.train) for site in sites)
    for key, value in control.items():
        parts = [len(s.train) / images * own[s.name][key].double() for s in sites if own[s.name]]
        torch.testing.assert_close(value.double(), sum(parts), rtol=1e-4, atol=1e-6)
    assert max(float(value.abs().max()) for value in control.values()) > 1e-3
