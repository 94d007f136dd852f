"""Private rounds of a server that may die, and the wire that outlives it."""

from flwr.app import Context, RecordDict

from fedmerge.federation import FederationOptions, LocalGrid, client_app, server_app
from fedmerge.federation.arrays import borrow
from fedmerge.federation.hospital.hospital import Hospital
from fedmerge.federation.messages.reading import job_of
from fedmerge.models import state_hash
from tests.interrupted import Died

ROUNDS = 3
CENTRAL = {"clip": 0.5, "noise": 1.0}
ADAPTIVE = {"kind": "adaptive", "clip": 0.5, "noise": 1.0}
LOCAL = {"kind": "local", "clip": 0.5, "noise": 1.0}


def private(plan, privacy, **options):
    """The plan with a network that can be noised, three private rounds, and nothing after them."""
    model = plan.model.model_copy(update={"options": {"width": 4, "norm": "group"}})
    rules = FederationOptions.model_validate({"privacy": privacy} | options)
    return plan.model_copy(update={"model": model, "fine_tune": None, "rounds": ROUNDS, "federation": rules})


class Wire(LocalGrid):
    """Hospitals that outlive servers, and all that was ever sent to them or by them.

    seen: per round, the hashes of the models that hospitals were sent to score. sent: hashes of the weights
    in training messages. answered: (round, hospital, hash) of training answers. dies: called before each
    message.
    """

    def __init__(self, sites, spoil=None, folder=None):
        hospitals = [Hospital(site, folder=None if folder is None else folder / site.name) for site in sites]
        super().__init__(client_app(lambda c: hospitals[int(c.node_config["partition-id"])]), len(sites))
        self.hospitals = hospitals
        self.seen, self.sent, self.answered = {}, [], []
        self.spoil = spoil or (lambda message, reply: None)
        self.dies = lambda message: None

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            self.dies(message)
            kind = message.metadata.message_type
            if kind == "evaluate":
                number = int(message.metadata.group_id.split()[1])
                self.seen.setdefault(number, set()).add(state_hash(borrow(message.content["arrays"])))
            if kind == "train":
                self.sent.append((job_of(message)["round"], state_hash(borrow(message.content["arrays"]))))
            (reply,) = super().send_and_receive([message])
            if kind == "train" and not reply.has_error():
                where = job_of(message)["round"], reply.metadata.src_node_id
                self.answered.append((*where, state_hash(borrow(reply.content["arrays"]))))
            self.spoil(message, reply)
            replies.append(reply)
        return replies


def serve(plan, wire, journal=None):
    """The rounds of a server on the wire; what it found, or None where it died."""
    found = []

    def programme(server):
        state = server.rounds(server.start(), journal)
        found.append((state, server.strategy.history, server.strategy))

    try:
        server_app(plan, programme)(grid=wire, context=_context())
    except Died:
        return None
    return found[0]


def _context():
    return Context(1, 0, {}, RecordDict(), {})


def spent(history, round=ROUNDS):
    """Releases by hospital, as the rows of a round say."""
    rows = [row for row in history if (row["round"], row["phase"]) == (round, "aggregate")]
    return {row["site"]: row["releases"] for row in rows}


def _raise_if(message, kind, round):
    if message.metadata.message_type == kind and message.metadata.group_id.split()[-1] == str(round):
        raise Died
