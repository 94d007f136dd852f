"""Federated rounds as plain loops, and the federation that they are compared with."""

from fedmerge.federation import FederationOptions, server_app, simulate
from fedmerge.models import average, build
from fedmerge.seeding import Draws
from fedmerge.training import Segment, fit

PRIVATE, SECURE = {"clip": 1.0, "noise": 1.0}, {"secure_aggregation": True}
SIMULATED, LOCAL = PRIVATE | {"simulate": True}, PRIVATE | {"kind": "local"}
ADAPTIVE = {"kind": "adaptive", "noise": 1.0}


def having(plan, **options):
    return plan.model_copy(update={"federation": FederationOptions(**options)})


def serve(plan, cohort, programme):
    """Run ``programme(server)`` in a federation of the cohort's training sites; return what it returns."""
    kept = []
    simulate(server_app(plan, lambda server: kept.append(programme(server))), cohort.training)
    return kept[0]


def trained(plan, site, state, round):
    """A hospital's weights after its training in a round, or, in the one after the last, its fine-tuning."""
    model = build(plan.model, plan.seed)
    model.load_state_dict(state)
    last = round > plan.rounds
    fit(
        model,
        site.train.images,
        site.train.labels,
        plan.fine_tune if last else plan.local,
        normalise=plan.normalisation,
        draws=Draws(plan.seed, purpose="fine-tune" if last else "round", round=round, site=site.name),
        segment=Segment() if last else Segment(((round - 1) / plan.rounds, round / plan.rounds)),
    )
    return model.state_dict()


def mean(states, sites):
    return average(states, [float(len(site.train)) for site in sites])


def both(server):
    """The global model after the rounds, and each hospital's after its fine-tuning."""
    state = server.rounds(server.start())
    return state, {name: tuned for name, tuned, _ in server.fine_tune(state)}


def protected(plan, **options):
    """The plan with group norm, and no model but that of the rounds."""
    model = plan.model.model_copy(update={"options": {"width": 4, "norm": "group"}})
    return having(plan, **options).model_copy(update={"model": model, "fine_tune": None})
