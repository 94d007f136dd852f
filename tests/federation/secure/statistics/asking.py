"""Models and images of four hospitals, and what is asked about them under masks."""

from fedmerge.data.cohort.fusion import share
from fedmerge.federation import FederationOptions
from fedmerge.federation.hospital.sums.answer import program_of
from fedmerge.federation.packing import pack
from fedmerge.merging.neurons.statistics import LocalStatistics

NAMES = ["alpha", "beta", "gamma", "delta"]
IMAGES = {"alpha": 18, "beta": 20, "gamma": 17, "delta": 19}
OUTER = ("outer", {"layers": ["head"]}, {})
RULES = {True: FederationOptions(secure_statistics=True), False: FederationOptions()}


def ask(server, states, *sums_asked, images=IMAGES):
    """The answer to one request, over the images of the hospitals that are there."""
    here = {member.name: images[member.name] for member in server.clients}
    return server.statistics(states, here, "train").ask(*(sums_asked or OUTER))


def node(server, name):
    return next(member.node_id for member in server.clients if member.name == name)


def own_sums(server, states, cohort, name, kind, options):
    """What one hospital would answer in the open, packed."""
    images = server.plan.normalisation(share(cohort[name], IMAGES[name], "train", server.plan.seed).images)
    program = program_of(server.plan.model)
    local = LocalStatistics(program, [(program, state) for state in states.values()], images)
    return pack(kind, local.ask(kind, options, {}))


def reasons(server):
    return " ".join(failure.reason for failure in server.strategy.failures)
